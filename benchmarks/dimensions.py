"""What fewer dimensions and bytes cost: nested training against none, and against a rotation that needs no training.

    python benchmarks/dimensions.py --set data.source.tables.lifts.files=PLACE [--nested 32 64 128] [--seeds 0]

Runs the jobs prepare, train and embed of a config (by default configs/lifters/train.yaml) once as it is and once with
`training.nested` (and, where there is fusion, mixed columns); finished stages are reused. Then linear probes as in
`evaluation.dimensions` read every prefix in every precision, from real files. Printed are, for each form, the bytes of
a vector, the mean AUC over the labels on the test rows, and its difference to all dimensions of the same vectors in
float32, with a 95 % interval over test users (paired).

    plain     the config's vectors, their first columns
    pca       the same vectors, rotated to their principal components (of the rows that probes are fitted on, whose
              users are train users), largest variance first: what needs no training
    nested    trained with `training.nested`

`against plain` is nested's whole vector minus plain's: what the option itself costs.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ray_ggsm.config import load
from ray_ggsm.evaluation.alignment import Aligned, ProbeData, align_all
from ray_ggsm.evaluation.config import DimensionsConfig
from ray_ggsm.evaluation.dimensions import stored_aucs
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.metrics import MEAN, Estimate, bootstrap_aucs, paired_difference
from ray_ggsm.evaluation.results import RESAMPLES
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.on_ray.probing.stored import stored
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

CONFIG = "configs/lifters/train.yaml"


def vectors_of(experiment: Experiment) -> ProbeData:
    """Train and embed, where that is not done, and read the rows of the probes."""
    place = Pipeline.of(experiment)
    prepare(place)
    train(place)
    table = open_table(embed(place)).read(columns=["user_id", "as_of", "embedding"])
    parts = [
        align_all(read_labels(place.prepare.labels(split)), {"encoder": (table, "embedding")}, split)["encoder"]
        for split in experiment.probe_splits
    ]
    return ProbeData(*parts)


def rotated(data: ProbeData) -> ProbeData:
    """On the principal components of the rows to fit on, largest variance first."""
    mean_D = data.fit.vectors.mean(axis=0)
    _, rotation_DD = np.linalg.eigh(np.cov((data.fit.vectors - mean_D).T))

    def on_components(rows: Aligned) -> Aligned:
        return replace(rows, vectors=((rows.vectors - mean_D) @ rotation_DD[:, ::-1]).astype(np.float32))

    return ProbeData(on_components(data.fit), on_components(data.score))


def told(estimate: Estimate) -> str:
    """A difference with its interval."""
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"


def report(experiment: Experiment, vectors: Mapping[str, ProbeData], settings: DimensionsConfig) -> None:
    """Print a line per form of each kind of vectors."""
    config = experiment.evaluation
    for name, data in vectors.items():
        for form in stored_aucs(config, settings, experiment.seed, data, stored, probe_all):
            size = f"{form.dimensions:>4} {form.precision:<8} {form.bytes:>6.0f} bytes"
            print(f"{name:<7} {size}  {form.auc.value:.4f}  {told(form.difference)}", flush=True)
    linear = config.model_copy(update={"kinds": ("linear",)})
    probed = probe_all(linear, experiment.seed, vectors)
    whole = {}
    for name in ("nested", "plain"):
        rows, scores = vectors[name].score, {label: r.scores for label, r in probed[name, "linear"].items()}
        whole[name] = bootstrap_aucs(rows.labels, scores, rows.users, RESAMPLES, experiment.seed)
    print(f"nested, whole, against plain: {told(paired_difference(whole['nested'], whole['plain'])[MEAN])}", flush=True)


def main() -> None:
    """Run both trainings for each seed, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    parser.add_argument("--nested", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    for seed in options.seeds:
        plain = load(Experiment, options.config, [*options.set, f"seed={seed}"])
        changes = [f"training.nested={options.nested}"]
        if isinstance(plain.model, ModelConfig) and plain.model.fusion is not None:
            changes.append("model.fusion.columns=mixed")
        nested = load(Experiment, options.config, [*options.set, f"seed={seed}", *changes])
        print(f"seed {seed}: form, bytes of a vector, mean AUC, difference to the whole vector in float32 (95 %)")
        with connected(plain):
            data = vectors_of(plain)
            vectors = {"plain": data, "pca": rotated(data), "nested": vectors_of(nested)}
            report(plain, vectors, DimensionsConfig(prefixes=tuple(options.nested)))


if __name__ == "__main__":
    main()

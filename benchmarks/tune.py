"""Tune on Journey without looking at its test rows: one run of the real jobs per variant, scored on the probe rows.

    python benchmarks/tune.py --set training.temperature=0.1 [--set ...]

Trains and embeds as `configs/journey/train.yaml` says, with the given changes, and prints the mean over labels of the
linear probe's AUC on held-out folds of the probe rows (no household is on both sides), for the encoder's vectors, for
the hand-crafted features, and for both joined. Finished stages are reused.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from joblib import Parallel, delayed

from ray_ggsm.config import load
from ray_ggsm.evaluation.alignment import Aligned, align
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.probes import fit_and_score
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

CONFIG = "configs/journey/train.yaml"
KINDS = "encoder", "hand-crafted", "both"
"""The vectors that are scored."""


def print_scores(score: Callable[[str, list[str], Sequence[str]], str], description: str) -> None:
    """Print one line: the changes of the command line, and the score of a config with them."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    add_options(parser)
    options = parser.parse_args()
    print(f"{' '.join(options.set) or 'as it is'} | {score(options.config, options.set, options.score)}", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a config, its changes, and what is scored."""
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--score", nargs="+", choices=KINDS, default=KINDS, help="the vectors that are scored")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")


def tuned(config: str, settings: list[str], kinds: Sequence[str] = KINDS) -> str:
    """Prepare, train, embed and score a config with changes; its scores and seconds."""
    experiment = load(Experiment, config, [*settings, "embedding.splits=[probe]"])
    place = Pipeline.of(experiment)
    with connected(experiment):
        prepare(place)
        train(place)
        embedded = open_table(embed(place)).read()
    ray.shutdown()
    return f"{fold_scores(place, embedded, kinds)} | training {place.train.require().seconds:.0f} s"


def fold_scores(place: Pipeline, embedded: pa.Table, kinds: Sequence[str] = KINDS) -> str:
    """Mean AUC of the linear probe on held-out folds of the probe rows: of vectors, of features, and of both."""
    labels = read_labels(place.prepare.labels("probe"))
    tabular = pq.read_table(place.prepare.rows("probe"), columns=["user_id", "as_of", "tabular"])
    rows, features = align(labels, embedded, "embedding", "probe"), align(labels, pa.table(tabular), "tabular", "probe")
    vectors = {
        "encoder": rows.vectors,
        "hand-crafted": features.vectors,
        "both": np.hstack([rows.vectors, features.vectors]),
    }
    jobs = [(kind, label) for kind in kinds for label in rows.labels]
    scores = Parallel(n_jobs=2)(delayed(cv_auc)(rows, vectors[kind], label, 0) for kind, label in jobs)
    means = {kind: np.mean([s for s, job in zip(scores, jobs, strict=True) if job[0] == kind]) for kind in kinds}
    return ", ".join(f"{kind} {mean:.4f}" for kind, mean in means.items())


def cv_auc(rows: Aligned, vectors: np.ndarray, label: str, seed: int) -> float:
    """AUC on held-out folds of the probe rows; scoring the first rows again is only because a probe must score."""
    arguments = vectors, rows.labels[label], rows.users, vectors, rows.labels[label]
    return fit_and_score("linear", *arguments, ProbeConfig(), seed, label=label).cv_auc


if __name__ == "__main__":
    print_scores(tuned, __doc__)

"""As `tune.py`, with the calendar between: probes that are fitted at one moment score other users at a later one.

    python benchmarks/later.py --config configs/lifters/train.yaml --set training.steps=300 [--set ...]

Held-out folds of rows of one moment reward what is true of that moment only (docs/results/ingredients.md). Here the
linear probe is fitted on the rows of the training split's newest as_of, and scores the probe rows, without looking at
test rows. A user is on one side only: each half of the users is scored by the probe of the other half. The encoder has
seen the futures of the rows that the probe is fitted on, though never their labels. Where test users' early windows are
trained on (`users: all`), probes are fitted on users of the probe rows only.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from joblib import Parallel, delayed
from tune import KINDS, print_scores

from ray_ggsm.config import load
from ray_ggsm.evaluation.alignment import Aligned, align_all
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.probes import fit_and_score
from ray_ggsm.experiment import Experiment
from ray_ggsm.hashing import bucket_of
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.embed import embed
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


def later(config: str, settings: list[str], kinds: Sequence[str] = KINDS) -> str:
    """Prepare, train, embed and score a config with changes."""
    experiment = load(Experiment, config, settings)
    early = experiment.data.train_split
    place = Pipeline.of(load(Experiment, config, [*settings, f"embedding.splits=[{early}, probe]"]))
    with connected(place.experiment):
        prepare(place)
        train(place)
        embedded = open_table(embed(place)).read()
    ray.shutdown()
    fit, score = of_split(place, embedded, early, newest=True), of_split(place, embedded, "probe")
    jobs = [(kind, label) for kind in kinds for label in fit[kind].labels]
    aucs = Parallel(n_jobs=2)(delayed(later_auc)(fit[kind], score[kind], label) for kind, label in jobs)
    means = {kind: np.mean([auc for auc, job in zip(aucs, jobs, strict=True) if job[0] == kind]) for kind in kinds}
    return ", ".join(f"{kind} {mean:.4f}" for kind, mean in means.items())


def of_split(place: Pipeline, embedded: pa.Table, split: str, newest: bool = False) -> dict[str, Aligned]:
    """Vectors and features of a split's rows, or of those of its newest as_of."""
    labels = read_labels(place.prepare.labels(split))
    if newest:
        labels = labels.filter(pc.equal(labels["as_of"], pc.max(labels["as_of"])))
        if place.experiment.data.splits[split].users == "all":
            known = read_labels(place.prepare.labels("probe"))["user_id"]
            labels = labels.filter(pc.is_in(labels["user_id"], pc.unique(known)))
    rows = pq.read_table(place.prepare.rows(split), columns=["user_id", "as_of", "tabular"])
    tables = {"encoder": (embedded, "embedding"), "hand-crafted": (pa.table(rows), "tabular")}
    aligned = align_all(labels, tables, split)
    encoder, features = (aligned[kind] for kind in KINDS[:2])
    both = replace(encoder, vectors=np.hstack([encoder.vectors, features.vectors]))
    return {**aligned, "both": both}


def later_auc(fit: Aligned, score: Aligned, label: str) -> float:
    """Mean AUC over the two halves of the users."""
    half_N, half_M = (bucket_of(pa.array(each.users), 2) for each in (fit, score))
    found = []
    for half in (0, 1):
        n, m = half_N == half, half_M != half
        data = (fit.vectors[n], fit.labels[label][n], fit.users[n], score.vectors[m], score.labels[label][m])
        found.append(fit_and_score("linear", *data, ProbeConfig(), 0, label=label).auc)
    return float(np.mean(found))


if __name__ == "__main__":
    print_scores(later, __doc__)

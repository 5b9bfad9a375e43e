"""The scores that a probe gives the test rows of one run, or its probe rows, on vectors of one kind.

They are computed once and kept as `<output>/scores-<digest>.parquet`.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import digest
from ray_ggsm.data.rows import tabular_rows
from ray_ggsm.evaluation.alignment import Aligned, ProbeData, align, check_disjoint, joined
from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.cross_fitting import cross_fitted, folds_of
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.study import Scores
from ray_ggsm.on_ray.probing.event_means import event_means
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

Vectors = Literal["encoder", "joined", "hand-crafted", "event mean"]
"""The run's embeddings; with the tabular features beside them; these alone; the mean event vector of a history."""


ScoredRows = Literal["score", "fit"]
"""score: the rows of the split with this role, by probes on the split with `role: fit`. fit: the rows of that split,
each by probes on other users of it."""


def score_rows(pipeline: Pipeline, vectors: Vectors, kind: Kind, scored: ScoredRows = "score") -> Scores:
    """Fit a probe on vectors of one kind for every label, and score rows.

    Raises:
        InputError: an earlier stage is not finished, or labels and vectors do not fit each other.
    """
    e = pipeline.experiment
    stage = pipeline.prepare if vectors in ("hand-crafted", "event mean") else pipeline.embed
    probes = e.evaluation.model_copy(update={"kinds": (kind,)})
    more = () if scored == "score" else (scored,)
    key = digest(stage.directory, vectors, probes, e.model.event_encoder, e.seed, *more)
    file = storage.join(storage.absolute(e.output), f"scores-{key}.parquet")
    if not storage.exists(file):
        _write(file, _scores(pipeline, vectors, probes, kind, scored))
    scores = _read(file)
    return replace(scores, fold_N=folds_of(scores.users, probes.folds)) if scored == "fit" else scores


def _scores(pipeline: Pipeline, vectors: Vectors, probes: ProbeConfig, kind: Kind, scored: ScoredRows) -> Scores:
    seed, (fit, score) = pipeline.experiment.seed, pipeline.experiment.probe_splits
    if scored == "fit":
        rows = _aligned(pipeline, vectors, fit, _embeddings(pipeline, vectors))
        all_N = np.ones(len(rows.users), dtype=bool)
        found = cross_fitted(rows, all_N, all_N, list(rows.labels), probes, seed, probe_all)
        return Scores(rows.users.astype(str), rows.labels, found)
    embeddings = _embeddings(pipeline, vectors)
    data = ProbeData(*(_aligned(pipeline, vectors, split, embeddings) for split in (fit, score)))
    check_disjoint(data.fit, data.score, fit, score)
    probed = probe_all(probes, seed, {vectors: data})[vectors, kind]
    return Scores(data.score.users.astype(str), data.score.labels, {name: r.scores for name, r in probed.items()})


def _write(file: str, scores: Scores) -> None:
    columns = {"user_id": pa.array(scores.users)}
    for label, score_N in scores.scores.items():
        columns |= {f"label.{label}": pa.array(scores.labels[label]), f"score.{label}": pa.array(score_N)}
    storage.write_parquet(file, pa.table(columns))


def _read(file: str) -> Scores:
    fs, path = storage.arrow_filesystem(file)
    table = pq.read_table(path, filesystem=fs)
    names = [column.removeprefix("label.") for column in table.column_names if column.startswith("label.")]
    labels, scores = ({name: table[f"{half}.{name}"].to_numpy() for name in names} for half in ("label", "score"))
    return Scores(table["user_id"].to_numpy(), labels, scores)


def _embeddings(pipeline: Pipeline, vectors: Vectors) -> pa.Table | None:
    """The embedding table, if these vectors are in it."""
    if vectors not in ("encoder", "joined"):
        return None
    return open_table(pipeline.embed.require().table).read(columns=["user_id", "as_of", "embedding"])


def _aligned(pipeline: Pipeline, vectors: Vectors, split: str, embeddings: pa.Table | None) -> Aligned:
    """The vectors and labels of a split."""
    labels, rows = read_labels(pipeline.prepare.labels(split)), pipeline.prepare.rows(split)
    if vectors == "event mean":
        return align(labels, event_means(pipeline, rows), "vector", split)
    if vectors == "hand-crafted":
        return align(labels, tabular_rows(rows), "tabular", split)
    assert embeddings is not None
    encoder = align(labels, embeddings, "embedding", split)
    return encoder if vectors == "encoder" else joined(encoder, align(labels, tabular_rows(rows), "tabular", split))

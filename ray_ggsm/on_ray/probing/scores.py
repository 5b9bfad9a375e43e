"""The scores that a probe gives the test rows of one run, on vectors of one kind.

They are computed once and kept as `<output>/scores-<digest>.parquet`.
"""

from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import digest
from ray_ggsm.data.rows import tabular_rows
from ray_ggsm.evaluation.alignment import Aligned, ProbeData, align, check_disjoint, joined
from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.study import Scores
from ray_ggsm.on_ray.probing.event_means import event_means
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

Vectors = Literal["encoder", "joined", "hand-crafted", "event mean"]
"""The run's embeddings; with the tabular features beside them; these alone; the mean event vector of a history."""


def score_test_rows(pipeline: Pipeline, vectors: Vectors, kind: Kind) -> Scores:
    """Fit a probe on vectors of one kind for every label, and score the test rows.

    Raises:
        InputError: an earlier stage is not finished, or labels and vectors do not fit each other.
    """
    e = pipeline.experiment
    stage = pipeline.prepare if vectors in ("hand-crafted", "event mean") else pipeline.embed
    probes = e.evaluation.model_copy(update={"kinds": (kind,)})
    key = digest(stage.directory, vectors, probes, e.model.event_encoder, e.seed)
    file = storage.join(storage.absolute(e.output), f"scores-{key}.parquet")
    if not storage.exists(file):
        _write(file, pipeline, vectors, probes, kind)
    return _read(file)


def _write(file: str, pipeline: Pipeline, vectors: Vectors, probes: ProbeConfig, kind: Kind) -> None:
    data = _probe_data(pipeline, vectors)
    probed = probe_all(probes, pipeline.experiment.seed, {vectors: data})[vectors, kind]
    columns = {"user_id": pa.array(data.score.users.astype(str))}
    for label, result in probed.items():
        columns |= {f"label.{label}": pa.array(data.score.labels[label]), f"score.{label}": pa.array(result.scores)}
    storage.write_parquet(file, pa.table(columns))


def _read(file: str) -> Scores:
    fs, path = storage.arrow_filesystem(file)
    table = pq.read_table(path, filesystem=fs)
    names = [column.removeprefix("label.") for column in table.column_names if column.startswith("label.")]
    labels, scores = ({name: table[f"{half}.{name}"].to_numpy() for name in names} for half in ("label", "score"))
    return Scores(table["user_id"].to_numpy(), labels, scores)


def _probe_data(pipeline: Pipeline, vectors: Vectors) -> ProbeData:
    """The rows to fit on and to score; the embedding table of both is read once."""
    embeddings = None
    if vectors in ("encoder", "joined"):
        table = open_table(pipeline.embed.require().table)
        embeddings = table.read(columns=["user_id", "as_of", "embedding"])
    fit, score = pipeline.experiment.probe_splits
    data = ProbeData(*(_aligned(pipeline, vectors, split, embeddings) for split in (fit, score)))
    check_disjoint(data.fit, data.score, fit, score)
    return data


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

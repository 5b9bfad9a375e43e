"""One run's test rows as a probe scores them: by its encoder, by vectors that nobody trains, or by both joined.

Computed once: kept as `<output>/scores-<digest>.parquet`.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import digest
from ray_ggsm.data.rows import tabular_rows
from ray_ggsm.data.schema import user_row_schema
from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.labels import Aligned, ProbeData, align, check_disjoint, joined, read_labels
from ray_ggsm.evaluation.study import Scores
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_vectors import find
from ray_ggsm.model.events import history_events
from ray_ggsm.model.template import Modality, Template
from ray_ggsm.on_ray.evaluate import probe_splits
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table

Vectors = Literal["encoder", "joined", "hand-crafted", "event mean"]
"""The run's embeddings; with the tabular features beside them; these alone; the mean event vector of a history."""

EVENTS_AT_ONCE = 100_000
"""Event vectors in memory at once for the mean."""


def score_test_rows(pipeline: Pipeline, vectors: Vectors, kind: Kind) -> Scores:
    """The test rows' scores by probes on vectors of one kind.

    Raises:
        InputError: the stages before are not finished, or labels and vectors do not fit each other.
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
    fit, score = probe_splits(pipeline.experiment)
    data = ProbeData(_aligned(pipeline, vectors, fit), _aligned(pipeline, vectors, score))
    check_disjoint(data.fit, data.score, fit, score)
    probed = probe_all(probes, pipeline.experiment.seed, {vectors: data})[vectors, kind]
    columns = {"user_id": pa.array(data.score.users.astype(str))}
    for label, result in probed.items():
        columns |= {f"label.{label}": pa.array(data.score.labels[label]), f"score.{label}": pa.array(result.scores)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    storage.write_bytes(file, sink.getvalue().to_pybytes())


def _read(file: str) -> Scores:
    fs, path = storage.arrow_filesystem(file)
    table = pq.read_table(path, filesystem=fs)
    names = [column.removeprefix("label.") for column in table.column_names if column.startswith("label.")]
    values = [{name: table[f"{half}.{name}"].to_numpy() for name in names} for half in ("label", "score")]
    return Scores(table["user_id"].to_numpy(), *values)


def _aligned(pipeline: Pipeline, vectors: Vectors, split: str) -> Aligned:
    labels, rows = read_labels(pipeline.prepare.labels(split)), pipeline.prepare.rows(split)
    if vectors == "event mean":
        return align(labels, _event_means(pipeline, rows), "vector", split)
    tabular = align(labels, tabular_rows(rows), "tabular", split) if vectors != "encoder" else None
    if vectors == "hand-crafted":
        assert tabular is not None
        return tabular
    table = open_table(pipeline.embed.require().table)
    encoder = align(labels, table.read(columns=["user_id", "as_of", "embedding"]), "embedding", split)
    return encoder if tabular is None else joined(encoder, tabular)


def _event_means(pipeline: Pipeline, rows: str) -> pa.Table:
    """The mean event vector of each row's history; zeros where it is empty."""
    modalities = {name: m.keep for name, m in pipeline.experiment.data.modalities.items()}
    events_digest = SavedEncoder.read(pipeline.train.encoder).description.event_encoder_digest
    location = storage.join(pipeline.event_vectors, events_digest)
    lookup = find(location, pipeline.experiment.ray.cache_directory).open()
    template = Template(tuple(Modality(name, keep) for name, keep in modalities.items()), 0, 8)
    fs, path = storage.arrow_filesystem(rows)
    columns = [name for name in user_row_schema(list(modalities), [], False).names if name != "tabular"]
    table = pq.read_table(path, columns=columns, filesystem=fs).combine_chunks()
    events = history_events(table, template)
    sums_BH = np.zeros((len(table), lookup.width), dtype=np.float32)
    row_E = np.concatenate([np.repeat(np.arange(len(table)), count_B) for count_B in events.count_MB])
    for start in range(0, len(row_E), EVENTS_AT_ONCE):
        part = slice(start, start + EVENTS_AT_ONCE)
        np.add.at(sums_BH, row_E[part], lookup(events.text_E[part]).astype(np.float32))
    mean_BH = sums_BH / np.maximum(np.bincount(row_E, minlength=len(table)), 1)[:, None]
    vectors = pa.array(list(mean_BH.astype(np.float32)), pa.list_(pa.float32()))
    return table.select(["user_id", "as_of"]).append_column("vector", vectors)

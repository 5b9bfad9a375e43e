"""One run's test rows as a probe scores them: by its encoder, by vectors that nobody trains, or by both joined.

Computed once: kept as `<output>/scores-<digest>.parquet`.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import digest
from ray_ggsm.data.schema import user_row_schema
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.labels import Aligned, align, check_disjoint, read_labels
from ray_ggsm.evaluation.study import Scores
from ray_ggsm.experiment import Experiment, event_vectors, stages
from ray_ggsm.model.batch import history_events
from ray_ggsm.model.event_vectors import find
from ray_ggsm.model.template import Modality, Template
from ray_ggsm.on_ray.evaluate import FIT, SCORE, joined, probe_all, tabular_rows
from ray_ggsm.tables import open_table

Vectors = Literal["encoder", "joined", "hand-crafted", "event mean"]
"""The run's embeddings; with the tabular features beside them; these alone; the mean event vector of a history."""


def score_test_rows(experiment: Experiment, what: Vectors, kind: Kind) -> Scores:
    """The test rows' scores by probes on vectors of one kind.

    Raises:
        InputError: the stages before are not finished, or labels and vectors do not fit each other.
    """
    place = stages(experiment)
    about = place["prepare" if what in ("hand-crafted", "event mean") else "embed"].location
    probes = experiment.evaluation.model_copy(update={"kinds": (kind,)})
    key = digest(about.rsplit("/", 1)[-1], what, probes, experiment.model.event_encoder, experiment.seed)
    file = storage.join(storage.absolute(experiment.output), f"scores-{key}.parquet")
    if not storage.exists(file):
        labels = {s: read_labels(place["prepare"].path("labels", s)) for s in (FIT, SCORE)}
        vectors = {s: _vectors(experiment, what, labels[s], s) for s in (FIT, SCORE)}
        check_disjoint(vectors[FIT], vectors[SCORE], FIT, SCORE)
        test = vectors[SCORE]
        probed = probe_all(probes, experiment.seed, {what: vectors})[what, kind]
        columns = {"user_id": pa.array(test.users.astype(str))}
        for label, result in probed.items():
            columns |= {f"label.{label}": pa.array(test.labels[label]), f"score.{label}": pa.array(result.scores)}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        storage.write_bytes(file, sink.getvalue().to_pybytes())
    fs, path = storage.arrow_filesystem(file)
    table = pq.read_table(path, filesystem=fs)
    names = [column.removeprefix("label.") for column in table.column_names if column.startswith("label.")]
    values = [{name: table[f"{half}.{name}"].to_numpy() for name in names} for half in ("label", "score")]
    return Scores(table["user_id"].to_numpy(), *values)


def _vectors(experiment: Experiment, what: Vectors, labels: pa.Table, stage: str) -> Aligned:
    place = stages(experiment)
    rows = place["prepare"].path("rows", stage)
    if what == "event mean":
        return align(labels, _event_means(experiment, rows), "vector", stage)
    tabular = align(labels, tabular_rows(rows), "tabular", stage) if what != "encoder" else None
    if what == "hand-crafted":
        assert tabular is not None
        return tabular
    table = open_table(place["embed"].require("jobs/embed.py")["table"])
    encoder = align(labels, table.read(columns=["user_id", "as_of", "embedding"]), "embedding", stage)
    return encoder if tabular is None else joined(encoder, tabular)


def _event_means(experiment: Experiment, rows: str) -> pa.Table:
    """The mean event vector of each row's history; zeros where it is empty."""
    modalities = {name: m.keep for name, m in experiment.data.modalities.items()}
    place = stages(experiment)["train"].path("encoder", "encoder.json")
    location = storage.join(event_vectors(experiment), storage.read_json(place)["event_encoder_digest"])
    lookup = find(location, experiment.ray.cache_directory).open()
    template = Template(tuple(Modality(name, keep) for name, keep in modalities.items()), 0, 8)
    fs, path = storage.arrow_filesystem(rows)
    columns = [name for name in user_row_schema(list(modalities), [], False).names if name != "tabular"]
    table = pq.read_table(path, columns=columns, filesystem=fs).combine_chunks()
    events = history_events(table, template)
    sums_BH = np.zeros((len(table), lookup.width), dtype=np.float32)
    row_E = np.concatenate([np.repeat(np.arange(len(table)), count_B) for count_B in events.count_MB])
    step = 100_000
    for start in range(0, len(row_E), step):
        part = slice(start, start + step)
        np.add.at(sums_BH, row_E[part], lookup(events.text_E[part]).astype(np.float32))
    mean_BH = sums_BH / np.maximum(np.bincount(row_E, minlength=len(table)), 1)[:, None]
    vectors = pa.array(list(mean_BH.astype(np.float32)), pa.list_(pa.float32()))
    return table.select(["user_id", "as_of"]).append_column("vector", vectors)

"""What prepare made, in one file: the counts of all shards added up, names, thresholds and vocabularies."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.data.aggregates import Fitted, features
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import source_fingerprint
from ray_ggsm.data.validate import enforce_share


class ShardCounts(Record):
    """What one shard wrote."""

    rows: dict[str, int]
    """Split -> rows."""
    rejected_rows: dict[str, int]
    """Split -> user rows that were rejected."""
    labels: dict[str, dict[str, tuple[int, int]]]
    """Split -> label -> positives and rows where it is defined."""
    cut: dict[str, int]
    """Modality -> events beyond its `keep`."""
    dead_letters: dict[str, int]
    """Reason -> dead letters."""


class DataSummary(Record):
    """What prepare made: the content of `data.json`."""

    rows: dict[str, int]
    """Split -> rows."""
    label_rates: dict[str, dict[str, float | None]]
    """Split -> label -> share of positives where it is defined."""
    labels_defined: dict[str, dict[str, int]]
    label_groups: dict[str, str]
    features: tuple[str, ...]
    """Names of the tabular numbers."""
    keep: dict[str, int]
    """Modality -> newest events that are kept."""
    events_cut: dict[str, int]
    """Modality -> older events that were left out."""
    distinct_texts: dict[str, int]
    dead_letters: dict[str, int]
    """Reason -> dead letters."""
    source: dict[str, dict[str, str]]
    """State of the input."""
    thresholds: dict[str, float]
    vocabularies: dict[str, tuple[str, ...]]


def write_summary(config: DataConfig, fitted: Fitted, counts: list[ShardCounts], location: str) -> DataSummary:
    """Write data.json from the counts of all shards and return its content.

    Raises:
        InputError: a split has no rows, or too many user rows were rejected.
    """
    rows = _add([c.rows for c in counts])
    bad = sum(_add([c.rejected_rows for c in counts]).values())
    enforce_share(bad, bad + sum(rows.values()), config.max_bad_share, storage.join(location, "rows"))
    for split, total in rows.items():
        if not total:
            raise InputError(
                f"data.splits.{split}: no user has a row; check the cutoffs, the user split and minimum_events"
            )
    labels = {
        split: {name: [sum(c.labels[split][name][i] for c in counts) for i in (0, 1)] for name in config.labels}
        for split in config.splits
    }
    summary = DataSummary(
        rows=rows,
        label_rates={s: {n: p / d if d else None for n, (p, d) in each.items()} for s, each in labels.items()},
        labels_defined={s: {n: d for n, (_, d) in each.items()} for s, each in labels.items()},
        label_groups={name: label.group for name, label in config.labels.items()},
        features=tuple(feature.name for feature in features(config, fitted)),
        keep={name: modality.keep for name, modality in config.modalities.items()},
        events_cut=_add([c.cut for c in counts]),
        distinct_texts=_distinct_texts(config, location),
        dead_letters=_add([c.dead_letters for c in counts]),
        source=source_fingerprint(config),
        thresholds=fitted.thresholds,
        vocabularies=fitted.vocabularies,
    )
    storage.write_json(storage.join(location, "data.json"), summary.model_dump(mode="json"))
    return summary


def _add(parts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part.get(name, 0) for part in parts) for name in sorted({n for part in parts for n in part})}


def _distinct_texts(config: DataConfig, location: str) -> dict[str, int]:
    """How many different texts each modality has over all splits and shards."""
    texts: dict[str, pa.Array] = {name: pa.array([], pa.string()) for name in config.modalities}
    for file in storage.list_files(storage.join(location, "rows"), ".parquet"):
        fs, path = storage.arrow_filesystem(file)
        for name in config.modalities:
            column = pq.read_table(path, columns=[name], filesystem=fs)[name].combine_chunks()
            texts[name] = pc.unique(pa.concat_arrays([texts[name], pc.struct_field(column.flatten(), "text")]))
    return {name: len(values) for name, values in texts.items()}

"""What prepare made, in one file: the counts of all shards added up, names, thresholds and vocabularies."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.data import definition
from ray_ggsm.data.aggregates import Fitted, features
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import TableRows, enforce_table_shares
from ray_ggsm.data.source_choice import source_of
from ray_ggsm.data.sources.source import State
from ray_ggsm.data.validate import enforce_share

FILE = "data.json"


class LabelCount(NamedTuple):
    """Positive rows of a label, and rows in which it is defined."""

    positives: int
    defined: int


@dataclass(frozen=True)
class ShardCounts:
    """What one shard of users gave."""

    tables: Mapping[str, TableRows]
    """Table -> records that could be used, and that could not."""
    rows: Mapping[str, int]
    """Split -> rows written."""
    rejected_rows: Mapping[str, int]
    """Split -> user rows that are dead letters instead."""
    labels: Mapping[str, Mapping[str, LabelCount]]
    """Split -> label -> counts."""
    events_cut: Mapping[str, int]
    """Modality -> events of the history beyond its `keep`."""
    dead_letters: Mapping[str, int]
    """Reason -> rejected events and user rows."""
    texts: Mapping[str, np.ndarray]
    """Modality -> hashes of its different texts, uint64."""


class KeptEvents(Record):
    """How many events of a modality a row holds at most."""

    keep: int


class DataSummary(Record):
    """The content of data.json."""

    rows: dict[str, int]
    """Split -> rows."""
    label_rates: dict[str, dict[str, float | None]]
    """Split -> label -> positives among the defined rows; None where there are none."""
    labels_defined: dict[str, dict[str, int]]
    """Split -> label -> rows in which it is defined."""
    features: tuple[str, ...]
    """Names of the tabular numbers, in order."""
    modalities: dict[str, KeptEvents]
    events_cut: dict[str, int]
    """Modality -> events of the histories beyond its `keep`."""
    distinct_texts: dict[str, int]
    """Modality -> different texts over all rows."""
    dead_letters: dict[str, int]
    """Reason -> rejected events and user rows."""
    source: State
    thresholds: dict[str, float]
    vocabularies: dict[str, tuple[str, ...]]


def write_summary(config: DataConfig, fitted: Fitted, shards: Sequence[ShardCounts], location: str) -> DataSummary:
    """Write data.json from the counts of all shards, and rows.json; returns the content of data.json.

    Raises:
        InputError: a split has no rows, or too many records of a table or user rows were rejected.
    """
    enforce_table_shares([shard.tables for shard in shards], config.max_bad_share)
    rows = _add(shard.rows for shard in shards)
    bad = sum(_add(shard.rejected_rows for shard in shards).values())
    enforce_share(bad, bad + sum(rows.values()), config.max_bad_share, storage.join(location, "rows"))
    for split, total in rows.items():
        if not total:
            raise InputError(
                f"data.splits.{split}: no user has a row; check the cutoffs, the user split and minimum_events"
            )
    labels = {
        split: {name: _total(shard.labels[split][name] for shard in shards) for name in config.labels}
        for split in config.splits
    }
    summary = DataSummary(
        rows=rows,
        label_rates={s: {n: p / d if d else None for n, (p, d) in each.items()} for s, each in labels.items()},
        labels_defined={s: {n: count.defined for n, count in each.items()} for s, each in labels.items()},
        features=tuple(feature.name for feature in features(config, fitted)),
        modalities={name: KeptEvents(keep=modality.keep) for name, modality in config.modalities.items()},
        events_cut=_add(shard.events_cut for shard in shards),
        distinct_texts={
            name: len(np.unique(np.concatenate([shard.texts[name] for shard in shards]))) for name in config.modalities
        },
        dead_letters=_add(shard.dead_letters for shard in shards),
        source=source_of(config).state(),
        thresholds=fitted.thresholds,
        vocabularies=fitted.definition.vocabularies,
    )
    definition.write(fitted.definition, location)
    storage.write_json(storage.join(location, FILE), summary.model_dump(mode="json"))
    return summary


def _add(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    parts = list(counts)
    return {name: sum(part.get(name, 0) for part in parts) for name in sorted({n for part in parts for n in part})}


def _total(counts: Iterable[LabelCount]) -> LabelCount:
    return LabelCount(*map(sum, zip(*counts, strict=True)))

"""The prepare job: event tables -> user rows, features and labels, one Ray task per shard of users."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from ray_ggsm import storage
from ray_ggsm.config import digest
from ray_ggsm.data import prepare as shards
from ray_ggsm.data.aggregates import Fitted
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import enforce_table_shares
from ray_ggsm.data.source_choice import places, source_of, store_of
from ray_ggsm.data.source_config import FilesSource
from ray_ggsm.data.sources.source import Source
from ray_ggsm.data.splits_config import SplitConfig
from ray_ggsm.data.summary import DataSummary
from ray_ggsm.experiment import RayConfig
from ray_ggsm.lineage import reads
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.cluster.resources import Need, require
from ray_ggsm.on_ray.ingest import IngestConfig, ingest
from ray_ggsm.stage_results import PrepareResult
from ray_ggsm.stages import Pipeline, timed

PROCESS_GB = 0.7
"""Memory of a task's process beside DuckDB's."""


def prepare(pipeline: Pipeline) -> str:
    """Write user rows and labels; returns the stage's location. A finished stage is reused."""
    stage, config = pipeline.prepare, pipeline.experiment.data
    if stage.result():
        return stage.location
    shards.check(config)
    for place in places(config.source):
        reads(place)
    with connected(pipeline.experiment), timed(stage) as running:
        experiment = pipeline.experiment
        store = f"events-{digest(config.source, source_of(config).state(), config.shards)}"
        store = storage.join(storage.absolute(experiment.output), store)
        summary = rows_of(config, stage.location, store, experiment.ray)
        print(f"prepare: rows {_listed(summary.rows)}; rejected {_listed(summary.dead_letters)}", flush=True)
        running.result = PrepareResult(summary=summary)
    return stage.location


@dataclass(frozen=True)
class Shards:
    """The shards of users of a config, and what their rows are."""

    config: DataConfig
    source: Source
    fitted: Fitted
    count: int

    @classmethod
    def of(cls, config: DataConfig, store: str, resources: RayConfig) -> "Shards":
        """Learn what rows are, one task per shard of users.

        Args:
            config: what to prepare, checked.
            store: where own event files are laid out by user, if there are several shards; nothing else lies there.
            resources: for the tasks that do this.
        """
        require(Need("memory_gb", "task that prepares a shard", {"CPU": 1, "memory": _memory(config) or 0}), resources)
        source = _source(config, store, resources)
        n = source.shards(config.shards)
        # functions of `data`, because a task loads the module of its function, and this one loads torch
        types_of, learn = (task(config, step) for step in (shards.types_of, shards.learn))
        types = ray.get(types_of.remote(config, source))
        threads = _threads(n)
        learning = [learn.remote(config, types, k, n, source=source.of_shard(k), threads=threads) for k in range(n)]
        return cls(config, source, shards.combine(config, types, ray.get(learning)), n)

    @property
    def threads(self) -> int | None:
        """Threads of a task: one shard may take the whole machine; of many, as many as there are cores run side by
        side."""
        return _threads(self.count)


def _threads(shards_: int) -> int | None:
    return None if shards_ == 1 else 1


def task(config: DataConfig, step: Callable[..., Any], **options: Any) -> Any:
    """A step of a shard as a Ray task that reserves the memory that it may need."""
    return ray.remote(num_cpus=1, memory=_memory(config), **options)(step)


def rows_of(config: DataConfig, location: str, store: str, resources: RayConfig) -> DataSummary:
    """Write the user rows and labels of a config, one task per shard of users, and at the end its summary.

    Args:
        config: what to prepare, checked.
        location: where the rows go.
        store, resources: as for `Shards.of`.
    """
    all_ = Shards.of(config, store, resources)
    write, n = task(config, shards.write_shard), all_.count
    tasks = [
        write.remote(config, all_.fitted, k, n, location, source=all_.source.of_shard(k), threads=all_.threads)
        for k in range(n)
    ]
    return shards.write_summary(config, all_.fitted, ray.get(tasks), location)


def matured_labels(
    config: DataConfig, moments: Sequence[dt.date], store: str, resources: RayConfig
) -> tuple[pa.Table, dt.date | None]:
    """The labels of all users at some days, and the day of the newest event (None: there is none).

    Thresholds of labels are learned from the train split, as for its rows.

    Args:
        config: whose labels; the days need not be cutoffs of it.
        moments: days at whose beginning users are looked at.
        store, resources: as for `Shards.of`; the store is removed: it names users.

    Raises:
        InputError: the source or a label is wrong, or too many records cannot be used.
    """
    if config.definition is None:
        config = config.model_copy(update={"features": ()})  # labels need none
    shards.check(config)
    all_ = Shards.of(config, store, resources)
    at = config.snapshots.model_copy(update={"cutoffs": tuple(moments)})
    everybody = {"matured": SplitConfig(users="all", cutoffs=tuple(range(len(moments))))}
    config = config.model_copy(update={"snapshots": at, "splits": everybody})
    labels, n = task(config, shards.labels_at, num_returns=3), all_.count
    tasks = [
        labels.remote(config, all_.fitted, k, n, source=all_.source.of_shard(k), threads=all_.threads) for k in range(n)
    ]
    tables, counts, days = (ray.get(list(part)) for part in zip(*tasks, strict=True))
    enforce_table_shares(counts, config.max_bad_share)
    storage.remove(store)
    return pa.concat_tables(tables), max((day for day in days if day is not None), default=None)


def _source(config: DataConfig, store: str, resources: RayConfig) -> Source:
    """Where the shards read: the source itself, or a store that its files are laid out in by user.

    Such a store names users as the source does, so there is none where outputs must not name them (`key_file`).
    """
    if not isinstance(config.source, FilesSource) or config.shards == 1 or config.users.key_file is not None:
        return source_of(config)
    ingest(
        IngestConfig(
            store=store,
            tables=config.source.tables,
            buckets=config.shards,
            max_events_per_user=None,
            max_bad_share=1.0,
            ray=resources,
        )
    )
    return store_of(config, store)


def _memory(config: DataConfig) -> int | None:
    """Bytes that a task reserves: `memory_gb` and what its process needs beside; None: whatever there is."""
    return None if config.memory_gb is None else int((config.memory_gb + PROCESS_GB) * 1e9)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"

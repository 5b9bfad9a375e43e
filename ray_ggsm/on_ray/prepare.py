"""The prepare job: event tables -> user rows, features and labels, one Ray task per shard of users."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import ray

from ray_ggsm import storage
from ray_ggsm.config import NotNow, digest
from ray_ggsm.data import prepare as shards
from ray_ggsm.data.aggregates import Fitted
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import enforce_table_shares
from ray_ggsm.data.followed import Followed, followed_at
from ray_ggsm.data.source_choice import from_first_history, pinned, places, source_of, store_of
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
        with _laid_out(config, pipeline.experiment.output) as store:
            summary = rows_of(config, stage.location, store, pipeline.experiment.ray)
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


@dataclass(frozen=True)
class Matured:
    """Labels at some days; whether they are known, the newest event tells."""

    found: Followed
    """The label rows."""
    newest: dt.date | None
    """Day of the newest event; None: there is none."""


def matured_labels(
    config: DataConfig, moments: Sequence[dt.date], most: int, place: str, resources: RayConfig
) -> Matured:
    """The labels at some days, of users who may be among the followed.

    Thresholds of labels are learned from the train split, as for its rows.

    Args:
        config: whose labels; the days need not be cutoffs of it.
        moments: days at whose beginning users are looked at.
        most: largest number of users who are followed.
        place: directory in which own event files are laid out by user meanwhile, if there are several shards.
        resources: as for `Shards.of`.

    Raises:
        InputError: the source or a label is wrong, or too many records cannot be used.
    """
    config = pinned(config)
    if config.definition is None:
        config = config.model_copy(update={"features": ()})  # labels need none
    shards.check(config)
    everybody = {"matured": SplitConfig(users="all", cutoffs=tuple(range(len(moments))))}
    at = config.snapshots.model_copy(update={"cutoffs": tuple(moments)})
    asked = config.model_copy(update={"snapshots": at, "splits": everybody})
    with _laid_out(config, place) as store:
        all_ = Shards.of(config, store, resources)
        source, n = from_first_history(all_.source, asked), all_.count
        labels, threads = task(asked, followed_at, num_returns=3), all_.threads
        tasks = [
            labels.remote(asked, all_.fitted, k, n, most, source=source.of_shard(k), threads=threads) for k in range(n)
        ]
        refs, counts, days = zip(*tasks, strict=True)
        # as they come, in the order of shards, so that only those who may be followed stay in memory
        found = reduce(lambda some, more: some.merged(ray.get(more), most), refs[1:], ray.get(refs[0]))
        enforce_table_shares(ray.get(list(counts)), config.max_bad_share)
    return Matured(found, max((day for day in ray.get(list(days)) if day is not None), default=None))


@contextmanager
def _laid_out(config: DataConfig, place: str) -> Iterator[str]:
    """Where own event files may be laid out by user, which names users: removed at the end, also after an error.

    It is named by what it is made of. What is killed, or has to wait, leaves it, and the same command goes on with it.
    """
    name = f"events-{digest(config.source, source_of(config).state(), config.shards)}"
    store = storage.join(storage.absolute(place), name)
    try:
        yield store
    except NotNow:
        raise
    except Exception:
        storage.remove(store)
        raise
    storage.remove(store)


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

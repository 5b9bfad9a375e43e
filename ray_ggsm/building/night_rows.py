"""Tonight's users of one shard, made of events: one task, one database."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.building.build import Build
from ray_ggsm.building.layout import LaidOut, is_due, lay_out
from ray_ggsm.clock import start_of_day
from ray_ggsm.data.aggregates import Fitted
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.keep import Vectors
from ray_ggsm.data.prepare import write_shard
from ray_ggsm.data.schema import user_row_schema
from ray_ggsm.data.sources.source import Source
from ray_ggsm.data.summary import ShardCounts
from ray_ggsm.tables import scan


@dataclass(frozen=True)
class Shard:
    """One shard of users."""

    number: int
    of: int
    """Number of shards."""
    source: Source
    threads: int | None
    """Threads that DuckDB may use; None: all cores."""
    vectors: Sequence[str]
    """Data files with the vectors of these users that may be kept."""


class _Collected:
    """Tables that are kept in memory instead of files."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self.tables: dict[str, list[pa.Table]] = {}

    @contextmanager
    def __call__(self, location: str) -> Iterator[Callable[[pa.Table], None]]:
        """Collect the tables that go to a location under the name of the directory below `self.location`."""
        name = location.removeprefix(self.location).split("/")[1]
        yield self.tables.setdefault(name, []).append


def night_rows(
    config: DataConfig, fitted: Fitted, shard: Shard, build: Build, file: str, since: int | None, only_changed: bool
) -> tuple[list[LaidOut], ShardCounts]:
    """Lay out tonight's users of a shard.

    Args:
        config: what to prepare.
        fitted: what rows are.
        shard: whose rows.
        build: the build.
        file: file of rows to write.
        since: as in `Vectors`.
        only_changed: decide by events alone who needs a row; false: everybody gets one, and it tells, too.
    """
    made = _Collected(build.staging)
    vectors = None
    if build.max_age_days is not None:
        vectors = Vectors(_young_enough(config, shard.vectors, build), since, rows_for_all=not only_changed)
    counts = write_shard(
        config, fitted, shard.number, shard.of, build.staging, threads=shard.threads, source=shard.source,
        vectors=vectors, writing=made, name_inactive=True,
    )  # fmt: skip
    zone, events = fitted.definition.age_timezone, fitted.definition.events()
    rows = made.tables.get("rows") or [user_row_schema(events, [], zone=zone).empty_table()]
    rows = pa.concat_tables([part.replace_schema_metadata(None) for part in rows])
    kept = pa.concat_tables(made.tables["kept"]) if vectors is not None else None
    if kept is None or only_changed:
        return lay_out(rows, build, file, shard.vectors, kept), counts
    return lay_out(rows, build, file, shard.vectors, quiet=kept["user_id"]), counts


def _young_enough(config: DataConfig, files: Sequence[str], build: Build) -> pa.Table:
    """`user_id` and `as_of` of the vectors that are not due by their age, one row per user."""
    found = scan.read_files(files, ["user_id", "as_of"])
    found = found.group_by("user_id", use_threads=False).aggregate([("as_of", "min"), ("as_of", "count")])
    found = found.filter(pc.equal(found["as_of_count"], len(build.embedding.instructions)))
    now = start_of_day(config.snapshots.dates[0], config.snapshots.timezone)
    as_of = pa.chunked_array([pa.array([now] * len(found), pa.timestamp("us", "UTC"))])
    due_N = is_due(found["user_id"], found["as_of_min"], as_of, build.zone, build.max_age_days)
    return pa.table({"user_id": found["user_id"], "as_of": found["as_of_min"]}).filter(pa.array(np.logical_not(due_N)))

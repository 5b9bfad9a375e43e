"""The ingest job: event files of a day -> the event store, by one shuffle, sealed by one manifest.

    look    a task per file: digest and columns; files that the store has are left out
    read    a task per some files: records -> rows by bucket (`ray_ggsm.data.store.arrivals`)
    write   a task per some buckets: their rows of all files -> one file per bucket and table
    seal    a commit per table, then the manifest (`ray_ggsm.data.store.manifest`)

Whatever a run that was killed leaves behind, nobody sees; the same command does the day again.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from itertools import chain
from typing import Self

import ray
from pydantic import Field, model_validator

from ray_ggsm import storage
from ray_ggsm.building.lock import held
from ray_ggsm.config import Config, InputError, Location, Runtime
from ray_ggsm.data.names import Name
from ray_ggsm.data.pseudonyms import key_id, read_key
from ray_ggsm.data.source_config import TableConfig, check_table_names
from ray_ggsm.data.sources.files import stamp
from ray_ggsm.data.sources.table import matching_files
from ray_ggsm.data.store import arrivals
from ray_ggsm.data.store.changes import TableChange, plan
from ray_ggsm.data.store.columns import REJECTED
from ray_ggsm.data.store.layout import LOCKED_FOR, Layout, create, lock_file
from ray_ggsm.data.store.manifest import (
    NO_REJECTED,
    FileEntry,
    Manifest,
    State,
    check_key,
    file_key,
    read_state,
)
from ray_ggsm.data.store.ready import check_ready
from ray_ggsm.data.store.seal import apply
from ray_ggsm.experiment import RayConfig
from ray_ggsm.log import say
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.places import check_place
from ray_ggsm.on_ray.ingesting.shuffle import Shuffle

DAY = re.compile(r"\{day(:[^{}]*)?\}")
"""Stands for the day in patterns: {day} is 2025-01-31, {day:%Y%m%d} is 20250131."""

LOOKS = 32
"""Files that a task looks at."""


class IngestConfig(Config):
    """Which events go into which store."""

    store: Runtime[Location]
    """Place of the store, local or s3://; made where there is none."""
    tables: dict[Name, TableConfig] = Field(min_length=1)
    """Files and columns of each table, as in `data.source`; `{day}` in `files` stands for the day (2025-01-31, or with
    {day:%Y%m%d} 20250131)."""
    day: date | None = None
    """The day that comes in; null: all files that match at once, with any text in the place of the day."""
    last_day: date | None = None
    """With `day`: all days up to this one come in, one after the other."""
    ready: str | None = None
    """File that says that a day is complete, with `{day}`; until it is there, the job ends with exit code 4. If it is a
    JSON object with `rows` (file -> number of records), these files must be there, with so many records."""
    columns: dict[Name, tuple[str, ...]] = Field({})
    """Per table, the columns that a new store takes beside user and time; tables without an entry: all columns."""
    buckets: int = Field(16, ge=1, le=65536)
    """Parts that users are laid out in, for ever; a part should fit into the memory of one task."""
    max_events_per_user: int | None = Field(1_000_000, ge=1)
    """Most records of one user in a table that a run takes, the newest; others are counted as rejected. Such a user is
    no person. null: all."""
    max_bad_share: Runtime[float] = Field(0.01, ge=0, le=1)
    """The run stops when a larger share of a table's records is rejected."""
    pseudonyms: bool = False
    """Whether the store names users by keyed hashes of their ids, so that nobody who reads it, or what is made of it,
    meets an id. The key is that of `key_file`; decided when the store is made."""
    key_file: Runtime[str | None] = None
    """Secret key of the pseudonyms, and of the list of forgotten users (jobs/store.py forget), once there is one."""
    mb_per_task: Runtime[int] = Field(32, ge=1)
    """Megabytes of files that a task reads."""
    ray: Runtime[RayConfig] = Field(RayConfig())
    """Resources."""

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        check_table_names(self.tables)
        if unknown := sorted(self.columns.keys() - self.tables.keys()):
            raise ValueError(f"columns: there is no table '{unknown[0]}'; `tables` has {', '.join(self.tables)}")
        return self

    @model_validator(mode="after")
    def _pseudonyms_fit(self) -> Self:
        if self.pseudonyms and self.key_file is None:
            raise ValueError("pseudonyms: give key_file, a file with a secret key (openssl rand -hex 32)")
        for name, table in self.tables.items():
            if self.pseudonyms and table.user in table.partitions:
                raise ValueError(
                    f"pseudonyms: folders of tables.{name} name users, and the store names folders; write the users "
                    "into a column"
                )
        return self

    @model_validator(mode="after")
    def _days_fit(self) -> Self:
        if self.last_day is not None and (self.day is None or self.last_day < self.day):
            raise ValueError("last_day: give `day`, too, which must not be later")
        if self.ready is not None and self.day is None:
            raise ValueError("ready: only with `day`")
        return self

    @property
    def days(self) -> list[date | None]:
        """The days that come in, in their order."""
        if self.day is None:
            return [None]
        return [self.day + timedelta(days=k) for k in range(((self.last_day or self.day) - self.day).days + 1)]


def preview(config: IngestConfig) -> str:
    """What the job would take in."""
    lines = []
    for day in config.days:
        found = {name: len(_files(name, table, day)) for name, table in config.tables.items()}
        lines.append(f"{day or 'all days'}: {', '.join(f'{name} {n:,} files' for name, n in found.items())}")
    return "\n".join(lines)


def ingest(config: IngestConfig) -> None:
    """Take in every day that is not in the store; see the module.

    Raises:
        InputError: files do not fit the store, or too many records are bad.
        NotNow: a day is not complete, or another change of the store is running.
    """
    with started(config.ray):
        check_place("store", config.store)
        location = storage.absolute(config.store)
        key = None if config.key_file is None else read_key(config.key_file)
        named_by = None if key is None or not config.pseudonyms else key_id(key)
        layout = create(location, config.buckets, named_by)
        with held(lock_file(location), LOCKED_FOR):
            for day in config.days:
                _ingest_day(config, location, layout, day, key)


def _ingest_day(config: IngestConfig, location: str, layout: Layout, day: date | None, key: bytes | None) -> None:
    name = "all days" if day is None else day.isoformat()
    paths = {table: _files(table, c, day) for table, c in config.tables.items()}
    patterns = {table: _of_day(c.files, day) for table, c in config.tables.items()}
    promised = None if config.ready is None else check_ready(_of_day(config.ready, day), patterns, paths)
    state = read_state(location)
    sealed = None if day is None else name
    changes = _changes(config, state, paths, sealed)
    for change in changes:
        _say(change)
    if not any(change.arriving or change.replaced for change in changes) and (day is None or name in state.days):
        print(f"ingest: {name}: the store has all of it (manifest {state.sequence})", flush=True)
        return
    check_key(state, key, "key_file")
    manifest = Manifest(
        sequence=state.sequence + 1,
        operation="ingest",
        day=sealed,
        tables={REJECTED: NO_REJECTED, **{c.name: c.state for c in changes}, **state.tables},
    )
    limits = config.mb_per_task, config.max_events_per_user
    done = Shuffle(*limits, location, layout, state, manifest, key).run(changes)
    if promised is not None:
        records = {file_key(c.name, each.path): each.records for c in changes for each in c.arriving}
        promised.check(done.entries, records)
    _enforce_share(done.entries, config.max_bad_share)
    gone = tuple(file_key(change.name, path) for change in changes for path in change.replaced)
    update = {"added": tuple(done.entries), "removed": gone, "capped": dict(done.capped), "not_taken": done.not_taken}
    manifest = apply(location, manifest.model_copy(update=update), done.added, done.removed)
    rejected = sum(n for entry in done.entries for n in entry.rejected.values())
    written = sum(file.rows for table, some in done.added.items() if table != REJECTED for file in some)
    told = f"{written:,} records of {len(done.entries):,} files, {rejected:,} rejected"
    numbers = {"records": written, "files": len(done.entries), "rejected": rejected, "manifest": manifest.sequence}
    say(f"ingest: {name}: {told}; manifest {manifest.sequence}", **numbers)
    if done.not_taken:
        print(f"ingest: {done.not_taken:,} records of forgotten users were not taken", flush=True)
    for table, n in manifest.capped.items():
        print(f"ingest: {table}: {n:,} records beyond max_events_per_user were left out", flush=True)


def _of_day(pattern: str, day: date | None) -> str:
    return DAY.sub(lambda place: "*" if day is None else place[0].format(day=day), pattern)


def _files(name: str, table: TableConfig, day: date | None) -> list[str]:
    """The files of a table and day."""
    try:
        return matching_files(name, table.model_copy(update={"files": _of_day(table.files, day)}))
    except InputError as error:
        raise InputError(str(error).replace("data.source.tables", "tables")) from None


def _changes(
    config: IngestConfig, state: State, paths: Mapping[str, Sequence[str]], day: str | None
) -> list[TableChange]:
    look = ray.remote(num_cpus=1)(arrivals.look)
    looking = {}
    for name, some in paths.items():
        table = config.tables[name]
        unsure = [p for p in some if not _is_known(state, name, p)]
        starts = range(0, len(unsure), LOOKS)
        looking[name] = [look.remote(name, table, unsure[k : k + LOOKS]) for k in starts]
    looks = {name: list(chain.from_iterable(ray.get(some))) for name, some in looking.items()}
    return [plan(state, n, config.tables[n], some, config.columns.get(n), day) for n, some in looks.items()]


def _is_known(state: State, table: str, path: str) -> bool:
    """Whether the store has a file, which has not been touched since."""
    entry = state.files.get(file_key(table, path))
    return entry is not None and entry.stamp == stamp(path)


def _say(change: TableChange) -> None:
    for path, other in change.twice:
        print(f"ingest: {change.name}: {path} has the content of {other}; it is not taken twice", flush=True)
    for path in change.replaced:
        print(f"ingest: {change.name}: {path} has other content than before; its records are replaced", flush=True)
    if change.not_stored:
        names = ", ".join(change.not_stored)
        print(f"ingest: {change.name}: columns that the store's table does not have are left out: {names}", flush=True)


def _enforce_share(entries: Sequence[FileEntry], max_bad_share: float) -> None:
    for table in sorted({entry.table for entry in entries}):
        mine = [entry for entry in entries if entry.table == table]
        reasons = sum((Counter(entry.rejected) for entry in mine), Counter())
        good, bad = sum(entry.rows for entry in mine), sum(reasons.values())
        if bad > max_bad_share * (good + bad):
            why, n = min(reasons.items(), key=lambda item: (-item[1], item[0]))
            file = next(entry.path for entry in mine if why in entry.rejected)
            raise InputError(
                f"tables.{table}: {bad} of {good + bad} records cannot be used, {n} of them for '{why}' (for example "
                f"in {file}); nothing was taken in; correct them or raise max_bad_share ({max_bad_share})"
            )

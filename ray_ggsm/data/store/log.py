"""The Delta logs of a store's tables: which files a version has, and commits that bring a table to given files.

A commit counts when a manifest names it. What a run committed before it was killed is undone by the next commit, which
states the whole difference between the newest version and the wanted one. A commit fails if another came in between.
"""

import datetime as dt
import json
import re
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.store.columns import BUCKET
from ray_ggsm.delta import one_line, retried, storage_options


@dataclass(frozen=True)
class StoreFile:
    """One Parquet file of a table: rows of one bucket, from one change of the store or several."""

    path: str
    """Below the table's location: `_store_bucket=3/s00000007-00000007-<random>.parquet`, with the first and the last
    change that it has rows of."""
    bucket: int
    size: int
    """Bytes."""
    rows: int
    first_time: str | None
    """Time of its earliest event, ISO; None: the table is static."""
    last_time: str | None

    @property
    def sequences(self) -> tuple[int, int]:
        """First and last change that it has rows of."""
        return sequences_of(self.path)


def sequences_of(path: str) -> tuple[int, int]:
    """First and last change that a file has rows of, from its path."""
    match = re.search(r"/s(\d+)-(\d+)-", path)
    assert match is not None, path
    return int(match[1]), int(match[2])


def files(location: str, version: int, time_column: str | None) -> list[StoreFile]:
    """The files of a table's version, by bucket.

    Raises:
        InputError: the version is gone, or the table.
    """
    try:
        table = retried(lambda: DeltaTable(location, version=version, storage_options=storage_options(location)))
    except (DeltaError, OSError) as error:
        raise InputError(
            f"{location}: version {version} cannot be opened ({one_line(error)}); after a vacuum, older manifests "
            "cannot be read"
        ) from error
    return _files(table, time_column)


def commit(
    location: str,
    version: int | None,
    schema: pa.Schema,
    time_column: str | None,
    removed: Collection[StoreFile],
    added: Collection[StoreFile],
    run: str,
) -> int:
    """Bring a table from a version that a manifest names to one with other files; returns the new version.

    Args:
        location: the table's place.
        version: the version that the newest manifest names; None: it names no such table.
        schema: the table's columns.
        time_column: column of the time, if it has one.
        removed: files of that version that are no longer in it.
        added: files that are new.
        run: random name of the change.

    Raises:
        NotNow: another run has changed the table just now.
        InputError: Delta Lake refuses the change.
    """
    sealed = {} if version is None else {f.path: f for f in files(location, version, time_column)}
    gone = {f.path for f in removed}
    wanted = {path: f for path, f in sealed.items() if path not in gone} | {f.path: f for f in added}
    try:
        return retried(lambda: _commit(location, version, schema, time_column, wanted, run))
    except DeltaError as error:
        if isinstance(error, CommitFailedError) or "already exists" in str(error):
            raise NotNow(f"{location}: another run has changed the table just now ({one_line(error)})") from error
        raise InputError(f"{location}: the table cannot be changed ({one_line(error)})") from error


def _commit(
    location: str,
    version: int | None,
    schema: pa.Schema,
    time_column: str | None,
    wanted: dict[str, StoreFile],
    run: str,
) -> int:
    table = _find(location)
    if table is not None and (done := table.transaction_version(run)) is not None:
        return done  # only the answer was lost
    new = 0 if table is None else table.version() + 1
    properties = CommitProperties(max_commit_retries=0, app_transactions=[Transaction(run, new)])
    delta_schema = Schema([*Schema.from_arrow(schema).fields, Field(BUCKET, PrimitiveType("integer"))])
    if table is None or version is None:
        create_table_with_add_actions(
            location,
            delta_schema,
            [_add(file, time_column) for file in wanted.values()],
            mode="error" if table is None else "overwrite",
            partition_by=[BUCKET],
            configuration={"delta.enableExpiredLogCleanup": "false"},
            storage_options=storage_options(location),
            commit_properties=properties,
        )
        return new
    newest = {f.path: f for f in _files(table, time_column)}
    now = int(time.time() * 1000)
    removes = [
        RemoveAction(f.path, True, now, f.size, {BUCKET: str(f.bucket)})
        for f in newest.values()
        if f.path not in wanted
    ]
    adds = [_add(f, time_column) for f in wanted.values() if f.path not in newest]
    table.create_write_transaction([*adds, *removes], "append", delta_schema, [BUCKET], commit_properties=properties)
    return new


def _find(location: str) -> DeltaTable | None:
    try:
        return DeltaTable(location, storage_options=storage_options(location))
    except TableNotFoundError:
        return None


def _files(table: DeltaTable, time_column: str | None) -> list[StoreFile]:
    actions = pa.table(table.get_add_actions(flatten=True))
    names = ["path", f"partition.{BUCKET}", "size_bytes", "num_records", f"min.{time_column}", f"max.{time_column}"]
    columns = [actions[n].to_pylist() if n in actions.column_names else [None] * len(actions) for n in names]
    found = [
        StoreFile(path, int(bucket), size, rows, first and iso(first), last and iso(last))
        for path, bucket, size, rows, first, last in zip(*columns, strict=True)
    ]
    return sorted(found, key=lambda f: (f.bucket, f.path))


def iso(value: dt.datetime) -> str:
    """An instant as Delta's statistics have it."""
    return value.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _add(file: StoreFile, time_column: str | None) -> AddAction:
    stats: dict[str, object] = {"numRecords": file.rows}
    if time_column is not None and file.first_time is not None:
        stats |= {"minValues": {time_column: file.first_time}, "maxValues": {time_column: file.last_time}}
    now = int(time.time() * 1000)
    return AddAction(file.path, file.size, {BUCKET: str(file.bucket)}, now, True, json.dumps(stats))


def clean(
    location: str, version: int, schema: pa.Schema, time_column: str | None, retention_hours: int, *, dry_run: bool
) -> list[str]:
    """Remove files that no version of the retention needs; returns their paths.

    A commit that no manifest names is undone first, or the files that it took out would go.

    Raises:
        NotNow: another run has changed the table just now.
    """
    newest = _find(location)
    if newest is not None and newest.version() != version and not dry_run:
        commit(location, version, schema, time_column, (), (), uuid.uuid4().hex)
    try:
        table = retried(lambda: DeltaTable(location, storage_options=storage_options(location)))
        return retried(
            lambda: sorted(table.vacuum(retention_hours, dry_run=dry_run, enforce_retention_duration=False, full=True))
        )
    except DeltaError as error:
        raise InputError(f"{location}: vacuum stopped ({one_line(error)})") from error

"""Looking after a store: merge small files, drop old events, forget users, remove files that no manifest needs."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.data.pseudonyms import is_suppressed
from ray_ggsm.data.store.bucket_files import read_files, write_bucket
from ray_ggsm.data.store.columns import REJECTED, SEQUENCE
from ray_ggsm.data.store.layout import table_place
from ray_ggsm.data.store.log import StoreFile, clean, files, iso
from ray_ggsm.data.store.manifest import TableState, read_state
from ray_ggsm.data.store.seal import schema_of


def to_merge(some: Sequence[StoreFile], days: int) -> list[list[StoreFile]]:
    """Groups of files of a table that become one: of the same bucket, and of the same span of days."""
    groups: dict[tuple[int, int], list[StoreFile]] = {}
    for file in some:
        span = -1 if file.first_time is None else _day(file.first_time) // days
        groups.setdefault((file.bucket, span), []).append(file)
    return [sorted(group, key=lambda f: f.path) for group in groups.values() if len(group) > 1]


def _day(time: str) -> int:
    return int(np.datetime64(time[:10], "D").astype(int))


def merge(location: str, name: str, table: TableState, group: Sequence[StoreFile], run: str) -> list[StoreFile]:
    """Write the rows of some files of a bucket as one file."""
    place = table_place(location, name)
    rows = read_files(place, group, schema_of(name, table))
    sequences = min(f.sequences[0] for f in group), max(f.sequences[1] for f in group)
    return [write_bucket(rows, place, table.time, group[0].bucket, sequences, run)]


def ended(some: Sequence[StoreFile], before: dt.datetime) -> list[StoreFile]:
    """Files of a table whose events all lie before an instant."""
    return [file for file in some if file.last_time is not None and file.last_time < iso(before)]


def ended_changes(ended_: Sequence[StoreFile], files: Sequence[StoreFile]) -> set[int]:
    """Changes that brought files of a table that have ended, and none of its others; `files` are all of them."""
    paths = {file.path for file in ended_}
    return _changes(ended_) - _changes([file for file in files if file.path not in paths])


def _changes(some: Sequence[StoreFile]) -> set[int]:
    return {change for file in some for change in range(file.sequences[0], file.sequences[1] + 1)}


def without_changes(
    location: str, table: TableState, file: StoreFile, gone: Mapping[str, Collection[int]], run: str
) -> list[StoreFile] | None:
    """A file of rejected records again, without those of some changes (by table): as `without_users`."""
    if not any(change in of_table for of_table in gone.values() for change in _changes([file])):
        return None
    rows = read_files(table_place(location, REJECTED), [file], schema_of(REJECTED, table))
    is_gone = pa.array([False] * len(rows))
    for name, some in gone.items():
        came_with = pc.is_in(rows[SEQUENCE], value_set=pa.array(sorted(some), pa.int64()))
        is_gone = pc.or_(is_gone, pc.and_(pc.equal(rows["table"], name), came_with))
    return _kept(location, REJECTED, table, file, rows, is_gone, run)


def without_users(
    location: str,
    name: str,
    table: TableState,
    file: StoreFile,
    suppressed: Collection[str],
    key: bytes | None,
    run: str,
) -> list[StoreFile] | None:
    """A file again, without users with some pseudonyms: none where nothing is left; None: it has none of them.

    Without a key, the file names its users by pseudonyms.
    """
    place = table_place(location, name)
    rows = read_files(place, [file], schema_of(name, table))
    gone = is_suppressed(rows["user_id" if name == REJECTED else table.user], suppressed, key)
    return _kept(location, name, table, file, rows, gone, run)


def _kept(
    location: str, name: str, table: TableState, file: StoreFile, rows: pa.Table, gone: pa.ChunkedArray, run: str
) -> list[StoreFile] | None:
    if not pc.any(gone).as_py():
        return None
    kept = rows.filter(pc.invert(gone))
    if not len(kept):
        return []
    return [write_bucket(kept, table_place(location, name), table.time, file.bucket, file.sequences, run)]


def vacuum(location: str, retention_hours: int, *, dry_run: bool) -> list[str]:
    """Remove files that the newest manifest does not need and that went out of use before the retention; returns them.

    Manifests that need removed files can no longer be read. The retention must be longer than the longest run.

    Raises:
        NotNow: another run has changed a table just now.
    """
    removed = []
    for name, table in read_state(location).tables.items():
        place = table_place(location, name)
        removed += [f"tables/{name}/{path}" for path in clean(place, table.version, schema_of(name, table), table.time,
                                                             retention_hours, dry_run=dry_run)]  # fmt: skip
    return sorted(removed)


def files_of(location: str, tables: dict[str, TableState]) -> dict[str, list[StoreFile]]:
    """Table -> its files."""
    return {name: files(table_place(location, name), table.version, table.time) for name, table in tables.items()}

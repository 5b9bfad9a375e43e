"""The Delta log of an embedding table: the only place that opens and reads it.

A version's metadata stand in its commit as JSON texts, under keys that start with `ray_ggsm.`. The number of buckets is
metadata of the column `bucket`: it is fixed when the table is created and survives checkpoints. S3 needs no lock
service, because commits are conditional puts.
"""

import datetime as dt
import json
import os
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypedDict

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.schema import PrimitiveType

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.delta import one_line, retried, storage_options
from ray_ggsm.lineage import reads
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.metadata import Commit, VersionMetadata
from ray_ggsm.tables.schema import SCHEMA

PREFIX = "ray_ggsm."
"""Prefix of the keys of a version's metadata in its commit."""
BUCKETS = "ray_ggsm.buckets"
"""Key of the number of buckets in the metadata of the column `bucket`."""


class _CommitInfo(TypedDict):
    timestamp: int
    operation: str


class _File(TypedDict):
    path: str
    partitionValues: dict[str, str]
    size: int
    stats: str | None


class _Action(TypedDict, total=False):
    """A line of a commit in Delta's protocol, as far as it is read here."""

    commitInfo: _CommitInfo
    add: _File
    remove: _File


@dataclass(frozen=True)
class FileChanges:
    """What a commit did to the data files of the version before."""

    removed: tuple[str, ...]
    """Paths of files that the version no longer has."""
    added: tuple[DataFile, ...]
    """Files that it has from now on."""


def find(location: str) -> DeltaTable | None:
    """The table at its newest version; None when there is none.

    Raises:
        InputError: the location is a file, cannot be reached, or holds a table of another kind.
    """
    location = storage.absolute(location)
    if os.path.isfile(location):
        raise InputError(f"{location}: this is a file; a table is a directory")
    try:
        table = retried(lambda: DeltaTable(location, storage_options=storage_options(location)))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise InputError(f"{location}: the table cannot be opened ({one_line(error)})") from error
    if not any(BUCKETS in field.metadata for field in table.schema().fields):
        raise InputError(f"{location}: this Delta table is no embedding table; give another location")
    return table


def exists(location: str) -> bool:
    """Whether there is an embedding table at a location; raises like `find`."""
    return find(location) is not None


def load(location: str, version: int | None = None) -> DeltaTable:
    """The table at its newest or at a given version.

    Raises:
        InputError: there is no embedding table, it cannot be reached, or it has no such version.
    """
    table = find(location)
    if table is None:
        raise InputError(f"{location}: no embedding table here; publish one first")
    if version is None or version == table.version():
        reads(storage.absolute(location), str(table.version()))
        return table
    if not 0 <= version <= table.version():
        raise InputError(f"{location}: no version {version}; there are versions 0 to {table.version()}")
    try:
        retried(lambda: table.load_as_version(version))
    except (DeltaError, OSError) as error:
        raise InputError(f"{location}: version {version} cannot be opened ({one_line(error)})") from error
    reads(storage.absolute(location), str(version))
    return table


def schema(buckets: int) -> Schema:
    """The table's columns in Delta's terms."""
    fields = Schema.from_arrow(SCHEMA).fields
    return Schema([*fields, Field("bucket", PrimitiveType("integer"), metadata={BUCKETS: buckets})])


def buckets(table: DeltaTable) -> int:
    """The number of buckets, fixed when the table was created."""
    return int(table.schema().fields[-1].metadata[BUCKETS])


def files(table: DeltaTable) -> list[DataFile]:
    """The data files of the loaded version, by bucket."""
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = [actions[name].to_pylist() for name in ("path", "partition.bucket", "size_bytes", "num_records")]
    return sorted((DataFile(*values) for values in zip(*columns, strict=True)), key=lambda f: (f.bucket, f.path))


def commit(metadata: VersionMetadata, **options: Any) -> CommitProperties:
    """Properties of a commit that fails when another one came first, instead of being repeated on top of it."""
    texts = {PREFIX + key: json.dumps(value, allow_nan=False) for key, value in metadata.values().items()}
    return CommitProperties(custom_metadata=texts, max_commit_retries=0, **options)


def origin(location: str, version: int) -> Commit | None:
    """The commit of the run that made a version's rows, where `rollback`, `forget` and vacuum came after it.

    None: the log has none, or no longer reaches back to it.
    """
    while version >= 0:
        try:
            (commit,) = history(location, version, version)
        except InputError:
            return None
        if commit.operation == "publish":
            return commit
        back = commit.metadata.rolled_back_to
        version = version - 1 if back is None else back
    return None


def history(location: str, first: int, last: int) -> list[Commit]:
    """The commits `first` to `last`, newest first.

    They are read from the commit files themselves: delta-rs 1.6 numbers the newest commits as if they ended at the
    version that a handle has loaded, which is wrong as soon as there are newer ones.

    Raises:
        InputError: the log is incomplete or damaged.
    """
    with ThreadPoolExecutor(8) as pool:
        infos = list(pool.map(lambda version: _commit_info(location, version), range(first, last + 1)))
    commits: list[Commit] = []
    for version, info in enumerate(infos, first):
        metadata = _metadata(location, version, info)
        recorded = metadata if metadata.model_fields_set or not commits else commits[-1]
        commits.append(
            Commit(
                version=version,
                timestamp=dt.datetime.fromtimestamp(info["timestamp"] / 1000, dt.UTC),
                operation=metadata.operation or info["operation"].lower(),
                run=recorded.run,
                encoder=recorded.encoder,
                rows=recorded.rows,
                metadata=metadata,
            )
        )
    return commits[::-1]


def removed_since(table: DeltaTable, location: str, moment: dt.datetime) -> set[str]:
    """Paths of files that commits since a moment took out of the table, up to the loaded version.

    A checkpoint forgets such files after a week (`delta.deletedFileRetentionDuration`); the commits do not.
    """
    found: set[str] = set()
    for version in range(table.version(), -1, -1):
        if _commit_info(location, version)["timestamp"] < moment.timestamp() * 1000:
            break
        removed = (action["remove"] for action in _actions(location, version) if "remove" in action)
        found |= {urllib.parse.unquote(each["path"]) for each in removed}
    return found


def metadata(location: str, version: int) -> VersionMetadata:
    """What a version records about itself; after a vacuum, what the version before it does."""
    for earlier in range(version, -1, -1):
        recorded = history(location, earlier, earlier)[0].metadata
        if recorded.model_fields_set:
            return recorded
    return VersionMetadata()


def file_changes(location: str, last: int) -> list[FileChanges]:
    """What the commits 0 to `last` did to the data files, in their order; files that are gone by now included.

    Raises:
        InputError: the log is incomplete or damaged.
    """
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda version: _file_changes(location, version), range(last + 1)))


def _file_changes(location: str, version: int) -> FileChanges:
    removed, added = [], []
    for action in _actions(location, version):
        if (remove := action.get("remove")) is not None:
            removed.append(urllib.parse.unquote(remove["path"]))
        if (add := action.get("add")) is not None:
            rows = json.loads(add.get("stats") or "{}").get("numRecords", 0)
            path = urllib.parse.unquote(add["path"])
            added.append(DataFile(path, int(add["partitionValues"]["bucket"]), add["size"], rows))
    return FileChanges(tuple(removed), tuple(added))


def _metadata(location: str, version: int, info: _CommitInfo) -> VersionMetadata:
    texts = {key.removeprefix(PREFIX): str(value) for key, value in info.items() if key.startswith(PREFIX)}
    try:
        return VersionMetadata.model_validate({key: json.loads(value) for key, value in texts.items()})
    except ValueError as error:
        raise InputError(f"{location}: the metadata of version {version} cannot be read ({one_line(error)})") from error


def _commit_info(location: str, version: int) -> _CommitInfo:
    """The commit's own JSON."""
    for action in _actions(location, version):
        if "commitInfo" in action:
            return action["commitInfo"]
    raise _incomplete(location, version)


def _actions(location: str, version: int) -> Iterator[_Action]:
    """The lines of a commit; each is parsed when it is asked for."""
    try:
        lines = filter(str.strip, storage.read_text(_log_file(location, version)).split("\n"))
        yield from map(json.loads, lines)
    except (FileNotFoundError, ValueError) as error:
        raise _incomplete(location, version) from error


def _incomplete(location: str, version: int) -> InputError:
    file = _log_file(location, version)
    return InputError(f"{file}: the record of version {version} is gone or damaged; the log is incomplete")


def _log_file(location: str, version: int) -> str:
    return storage.join(location, "_delta_log", f"{version:020}.json")

"""Publishing: one atomic commit that names files which are already written.

Readers see the version before or the version after, nothing between. A run publishes once: its name is recorded in
the log with the commit, so a rerun after a crash finds its own version. A commit never lands on a table that another
publisher has changed in the meantime.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow.fs as pafs
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.delta import one_line, retried, storage_options
from ray_ggsm.lineage import Dataset, writes
from ray_ggsm.tables import delta
from ray_ggsm.tables.files import DataFile, check_run
from ray_ggsm.tables.metadata import VersionMetadata
from ray_ggsm.tables.schema import SCHEMA

NO_TABLE = -1
"""`expected_version` of a run that found no table when it started."""


COLUMNS = (*((field.name, str(field.type)) for field in SCHEMA), ("bucket", "int32"))
"""Name and type of the columns that readers see."""


class LostRace(InputError, NotNow):  # noqa: N818 (no fault)
    """The table was changed by another publisher in the meantime: what was built on the version before is no use."""


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """A version whose files are written."""

    files: Sequence[DataFile]
    """Files as `write_bucket` returned them; every file must exist with its size."""
    run: str
    """Name that no other run has."""
    buckets: int
    """Number of buckets, fixed by the table's first version."""
    replaced: Sequence[int] | None
    """Buckets that the files replace (a bucket without a file becomes empty), while all others keep their files; None:
    the files are the whole version."""
    metadata: VersionMetadata = field(default_factory=VersionMetadata)
    """What the version records about itself; `run`, `rows` and `operation` are filled in."""
    expected_version: int
    """Version that this one is built on; NO_TABLE: there was no table."""


def publish(location: str, new: NewVersion) -> int:
    """Commit a version to the table at `location`, which is created when there is none; returns its number.

    When the run has published before, nothing happens and the number of its version is returned.

    Raises:
        InputError: a file is missing or has another size, the number of buckets differs, or buckets of a table that
            does not exist are replaced.
        LostRace: the table has moved on.
    """
    location = storage.absolute(location)
    check_run(new.run)
    table = delta.find(location)
    if table is not None and (version := _published(table, new.run)) is not None:
        return version
    _check_base(location, table, new)
    _check_files(location, new)
    metadata = new.metadata.model_copy(
        update={"operation": new.metadata.operation or "publish", "run": new.run, "rows": _rows(table, new)}
    )

    def commit() -> int:
        try:
            _commit(location, table, new, metadata)
        except (DeltaError, OSError):
            newest = delta.find(location)
            if newest is not None and (version := _published(newest, new.run)) is not None:
                return version  # only the answer was lost
            raise
        return 0 if table is None else table.version() + 1

    try:
        version = retried(commit)
        writes(Dataset(location, str(version), COLUMNS, metadata.rows))
        return version
    except (DeltaError, OSError) as error:
        newest = delta.find(location)
        moved_on = newest is not None and (table is None or newest.version() != table.version())
        kind = LostRace if moved_on else InputError
        raise kind(
            f"{location}: run {new.run} could not commit; if another publisher was faster, start the run again on the "
            f"new version ({one_line(error)})"
        ) from error


def published_version(location: str, run: str) -> int | None:
    """The version that a run has published; None: it has not.

    Call it before writing files: a run that has published must not write again, because its files belong to a version.
    """
    table = delta.find(location)
    return None if table is None else _published(table, run)


def _rows(table: DeltaTable | None, new: NewVersion) -> int:
    """Rows of the version, those in files that it keeps included."""
    kept = delta.files(table) if table is not None and new.replaced is not None else []
    return sum(f.rows for f in new.files) + sum(f.rows for f in kept if f.bucket not in (new.replaced or ()))


def _commit(location: str, table: DeltaTable | None, new: NewVersion, metadata: VersionMetadata) -> None:
    adds = [_add(file) for file in new.files]
    version = 0 if table is None else table.version() + 1
    properties = delta.commit(metadata, app_transactions=[Transaction(_application(new.run), version)])
    if table is None:
        create_table_with_add_actions(
            location,
            delta.schema(new.buckets),
            adds,
            mode="error",
            partition_by=["bucket"],
            configuration={"delta.enableExpiredLogCleanup": "false"},
            storage_options=storage_options(location),
            commit_properties=properties,
        )
        return
    filters = None if new.replaced is None else [("bucket", "in", [str(bucket) for bucket in new.replaced])]
    mode = "append" if new.replaced is not None and not new.replaced else "overwrite"
    table.create_write_transaction(
        [*adds],
        mode,
        table.schema(),
        ["bucket"],
        filters if mode == "overwrite" else None,
        commit_properties=properties,
    )


def _add(file: DataFile) -> AddAction:
    stats = json.dumps({"numRecords": file.rows})
    return AddAction(file.path, file.size, {"bucket": str(file.bucket)}, int(time.time() * 1000), True, stats)


def _application(run: str) -> str:
    return f"ray_ggsm:{run}"


def _published(table: DeltaTable, run: str) -> int | None:
    """The version that a run has committed: its transaction carries the number."""
    return table.transaction_version(_application(run))


def _check_base(location: str, table: DeltaTable | None, new: NewVersion) -> None:
    expected = new.expected_version
    if table is None:
        if new.replaced is not None or expected != NO_TABLE:
            raise InputError(f"{location}: there is no table whose buckets could be replaced; publish all of them")
        return
    if delta.buckets(table) != new.buckets:
        raise InputError(
            f"{location}: this table has {delta.buckets(table)} buckets, which never changes, found {new.buckets}; use "
            "that number, or publish to another location"
        )
    if expected == table.version():
        return
    since = delta.history(location, expected + 1, table.version())
    if expected > table.version() or any(not commit.operation.startswith("vacuum") for commit in since):
        base = "no table" if expected == NO_TABLE else f"version {expected}"
        raise LostRace(
            f"{location}: the run was built on {base}, but the table is at version {table.version()} now; start the "
            "run again, so that it takes that version into account"
        )


def _check_files(location: str, new: NewVersion) -> None:
    allowed = range(new.buckets) if new.replaced is None else new.replaced
    assert all(file.bucket in allowed for file in new.files), "a file belongs to a bucket that is not replaced"
    try:
        check_files(location, new.files)
    except InputError as error:
        raise InputError(f"{error}; nothing was published; write the file again") from None


def check_files(location: str, files: Sequence[DataFile]) -> None:
    """Check that data files of the table at `location` exist with their sizes.

    Raises:
        InputError: one does not.
    """
    if not files:
        return
    fs = storage.arrow_filesystem(location)[0]
    paths = [storage.arrow_filesystem(storage.join(location, file.path))[1] for file in files]
    for file, found in zip(files, storage.retried(lambda: fs.get_file_info(paths)), strict=True):
        state = f"has {found.size}" if found.type == pafs.FileType.File else "is missing"
        if state != f"has {file.size}":
            raise InputError(f"{storage.join(location, file.path)}: expected a file of {file.size} bytes, it {state}")

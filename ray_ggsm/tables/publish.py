"""Publishing: one atomic commit that names files which are already written.

Readers see the version before or the version after, nothing between. A run publishes once: its name is recorded in
the log with the commit, so a rerun after a crash finds its own version. A commit never lands on a table that another
publisher has changed in the meantime.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.fs as pafs
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables import delta
from ray_ggsm.tables.files import DataFile, check_run

NO_TABLE = -1
"""`expected_version` of a run that found no table when it began."""


def publish(
    location: str,
    files: Sequence[DataFile],
    *,
    run: str,
    buckets: int,
    replaced: Sequence[int] | None,
    metadata: Mapping[str, Any],
    expected_version: int | None = None,
) -> int:
    """Make written files a new version of the table, which is created when it is not there; returns the version.

    Args:
        location: the table.
        files: what `write_bucket` returned; every file must be there with its size.
        run: a name that no other run has. When it has published before, nothing happens.
        buckets: number of buckets, fixed by the table's first version.
        replaced: None: the files are the whole version. A list: only these buckets are replaced (a bucket without a
            file becomes empty), all others keep their files.
        metadata: values for JSON, told by `history()`. `encoder` (digest) is shown there by name; `run`, `rows` and
            `operation` are added.
        expected_version: the version this run was built on, or NO_TABLE; None does not ask. Give it whenever the rows
            depend on an earlier version, which they do when buckets are replaced.

    Raises:
        InputError: a file is missing or has another size, the number of buckets differs, buckets of a table that is
            not there are replaced, or the table has moved on.
    """
    location = storage.absolute(location)
    check_run(run)
    table = delta.find(location)
    if table is not None and (version := _published(table, run)) is not None:
        return version
    _check_base(location, table, buckets, replaced, expected_version)
    _check_files(location, files, buckets, replaced)
    kept = delta.files(table) if table is not None and replaced is not None else []
    rows = sum(f.rows for f in files) + sum(f.rows for f in kept if f.bucket not in (replaced or ()))
    said = {"operation": "publish", **metadata, "run": run, "rows": rows}

    def commit() -> int:
        try:
            _commit(location, table, files, run, buckets, replaced, said)
        except (DeltaError, OSError):
            newest = delta.find(location)
            if newest is not None and (version := _published(newest, run)) is not None:
                return version  # only the answer was lost
            raise
        return 0 if table is None else table.version() + 1

    try:
        return delta.retried(commit)
    except (DeltaError, OSError) as error:
        raise InputError(
            f"{location}: run {run} could not commit; if another publisher was faster, start the run again on the "
            f"new version ({delta.line(error)})"
        ) from error


def published_version(location: str, run: str) -> int | None:
    """The version that a run has published; None: it has not. Ask before files are written: a run that has published
    must not write again, because its files belong to a version."""
    table = delta.find(location)
    return None if table is None else _published(table, run)


def _commit(
    location: str,
    table: DeltaTable | None,
    files: Sequence[DataFile],
    run: str,
    buckets: int,
    replaced: Sequence[int] | None,
    metadata: Mapping[str, Any],
) -> None:
    adds = [_add(file) for file in files]
    version = 0 if table is None else table.version() + 1
    properties = delta.commit(metadata, app_transactions=[Transaction(_application(run), version)])
    if table is None:
        create_table_with_add_actions(
            location,
            delta.schema(buckets),
            adds,
            mode="error",
            partition_by=["bucket"],
            configuration={"delta.enableExpiredLogCleanup": "false"},
            storage_options=delta.storage_options(location),
            commit_properties=properties,
        )
        return
    filters = None if replaced is None else [("bucket", "in", [str(bucket) for bucket in replaced])]
    mode = "append" if replaced is not None and not replaced else "overwrite"
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


def _check_base(
    location: str,
    table: DeltaTable | None,
    buckets: int,
    replaced: Sequence[int] | None,
    expected: int | None,
) -> None:
    if table is None:
        if replaced is not None or expected not in (None, NO_TABLE):
            raise InputError(f"{location}: there is no table whose buckets could be replaced; publish all of them")
        return
    if delta.buckets(table) != buckets:
        raise InputError(
            f"{location}: this table has {delta.buckets(table)} buckets for ever, found {buckets}; use that number, or "
            "publish to another location"
        )
    if expected is None or expected == table.version():
        return
    since = delta.history(location, expected + 1, table.version())
    if expected > table.version() or any(not entry["operation"].startswith("vacuum") for entry in since):
        began = "no table" if expected == NO_TABLE else f"version {expected}"
        raise InputError(
            f"{location}: the run was built on {began}, but the table is at version {table.version()} now; start the "
            "run again, so that it takes that version into account"
        )


def _check_files(location: str, files: Sequence[DataFile], buckets: int, replaced: Sequence[int] | None) -> None:
    allowed = range(buckets) if replaced is None else replaced
    assert all(file.bucket in allowed for file in files), "a file belongs to a bucket that is not replaced"
    if not files:
        return
    fs = storage.arrow_filesystem(location)[0]
    paths = [storage.arrow_filesystem(storage.join(location, file.path))[1] for file in files]
    for file, found in zip(files, storage.retried(lambda: fs.get_file_info(paths)), strict=True):
        state = f"has {found.size}" if found.type == pafs.FileType.File else "is missing"
        if state != f"has {file.size}":
            raise InputError(
                f"{storage.join(location, file.path)}: expected a file of {file.size} bytes, it {state}; nothing was "
                "published; write the file again"
            )

"""Looking after a table: roll back, forget users, remove files that no retained version needs."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables import delta, scan
from ray_ggsm.tables.files import DataFile, TableConfig, spacing_of, write_bucket
from ray_ggsm.tables.publish import publish
from ray_ggsm.tables.reader import EmbeddingTable, open_table
from ray_ggsm.tables.schema import SCHEMA, bucket_of


@dataclass(frozen=True)
class Forgotten:
    """What `forget` did."""

    version: int
    """the newest version, without the users"""
    users: int
    """users that had rows"""
    rows: int
    absent: int
    """users that had none"""


def rollback(location: str, version: int, *, bring_back_forgotten: bool = False) -> int:
    """Commit a new version with the rows of an earlier one, and return its number.

    Raises:
        InputError: no such earlier version, vacuum has removed its files, another publisher was faster, or users were
            forgotten since and `bring_back_forgotten` is false.
    """
    table = open_table(location)
    if version == table.version:
        raise InputError(f"{location}: version {version} is the newest one; name an earlier one (see history)")
    said = table.metadata(version)
    since = [entry for entry in table.history() if entry["version"] > version]
    undone = [entry["version"] for entry in since if entry["operation"] == "forget"]
    if undone and not bring_back_forgotten:
        raise InputError(
            f"{location}: version {undone[0]} has forgotten users who are still in version {version}; roll back to "
            f"{undone[0]} or later, or allow it (--bring-back-forgotten) and forget them again"
        )
    properties = delta.commit({**said, "operation": "rollback", "rolled_back_to": version})
    log = delta.load(location, table.version)
    try:
        log.restore(version, commit_properties=properties)
    except (DeltaError, OSError) as error:
        raise InputError(
            f"{location}: cannot roll back to version {version}; its files are gone, or the table was changed just now "
            f"({delta.line(error)})"
        ) from error
    return delta.load(location).version()


def vacuum(location: str, retention_hours: int, *, dry_run: bool) -> list[str]:
    """Remove the files that no version of the last `retention_hours` names, and return their paths below the table.

    Files that were written but never published go as well when they are older; so the retention must be longer than
    the longest run. Versions that used a removed file can no longer be read.

    Raises:
        InputError: no table, or a negative retention.
    """
    if retention_hours < 0:
        raise InputError(f"retention: expected a number of hours, 0 or more, found {retention_hours}")
    table = delta.load(location)
    try:
        return delta.retried(
            lambda: sorted(table.vacuum(retention_hours, dry_run=dry_run, enforce_retention_duration=False, full=True))
        )
    except (DeltaError, OSError) as error:
        raise InputError(f"{location}: vacuum stopped ({delta.line(error)}); start it again") from error


def forget(location: str, user_ids: Collection[str], *, config: TableConfig | None = None) -> Forgotten:
    """Commit a version without some users; only the buckets that hold them are written again.

    Earlier versions keep the users until `vacuum` removes their files after the retention. Do it again after a crash:
    nothing is lost, and a second call finds nothing to do.

    Raises:
        InputError: no table, or another publisher was faster.
    """
    table = open_table(location)
    wanted = sorted(set(user_ids))
    present = table.read(user_ids=wanted, columns=["user_id"])["user_id"]
    users = present.unique()
    version = table.version
    if len(users):
        run = f"forget-{version}-{uuid.uuid4().hex[:12]}"  # nothing of the users, not even a hash
        buckets = sorted(set(bucket_of(users, table.buckets).tolist()))
        files = [_without(table, bucket, users, run, config or TableConfig()) for bucket in buckets]
        version = publish(
            location,
            [file for file in files if file.rows],
            run=run,
            buckets=table.buckets,
            replaced=buckets,
            metadata=_said(table, len(users), len(present)),
            expected_version=version,
        )
    return Forgotten(version, len(users), len(present), len(wanted) - len(users))


def _without(
    table: EmbeddingTable, bucket: int, users: pa.Array | pa.ChunkedArray, run: str, config: TableConfig
) -> DataFile:
    mine = [storage.join(table.location, file.path) for file in table.data_files() if file.bucket == bucket]
    rows = scan.read_files(mine, SCHEMA.names)
    kept = rows.filter(pc.invert(pc.is_in(rows["user_id"], value_set=users)))
    spacing = spacing_of(mine)
    config = config if spacing is None else config.model_copy(update={"precision": "int8"})
    return write_bucket(kept, table.location, run, bucket, config, spacing)


def _said(table: EmbeddingTable, users: int, rows: int) -> dict[str, object]:
    said: dict[str, object] = {key: value for key, value in table.metadata().items() if key not in ("run", "rows")}
    return {**said, "operation": "forget", "forgotten": {"users": users, "rows": rows}}

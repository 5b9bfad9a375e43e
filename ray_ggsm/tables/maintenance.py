"""Looking after a table: roll back, forget users, remove files that no retained version needs."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.delta import one_line, retried
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import delta, scan
from ray_ggsm.tables.files import DataFile, DataFileConfig, spacing_of, write_bucket
from ray_ggsm.tables.metadata import ForgottenRows
from ray_ggsm.tables.publish import NewVersion, publish
from ray_ggsm.tables.reader import EmbeddingTable, open_table
from ray_ggsm.tables.schema import SCHEMA


@dataclass(frozen=True)
class Forgotten:
    """What `forget` did."""

    version: int
    """Newest version, without the users."""
    users: int
    """Users who had rows."""
    rows: int
    """Rows that these users had."""
    absent: tuple[str, ...]
    """Users who had none, sorted."""


def rollback(location: str, version: int, *, bring_back_forgotten: bool = False) -> int:
    """Commit a new version with the rows of an earlier one, and return its number.

    Raises:
        InputError: no such earlier version, vacuum has removed its files, another publisher was faster, or users were
            forgotten since and `bring_back_forgotten` is false.
    """
    table = open_table(location)
    if version == table.version:
        raise InputError(f"{location}: version {version} is the newest one; name an earlier one (see history)")
    metadata = table.metadata(version)
    forgets = [commit.version for commit in table.history() if commit.operation == "forget"]
    undone = [forget for forget in forgets if forget > version]
    if undone and not bring_back_forgotten:
        raise InputError(
            f"{location}: version {undone[0]} has forgotten users who are still in version {version}; roll back to "
            f"{undone[0]} or later, or allow it (--bring-back-forgotten) and forget them again"
        )
    properties = delta.commit(metadata.model_copy(update={"operation": "rollback", "rolled_back_to": version}))

    def restore() -> None:
        try:
            delta.load(location, table.version).restore(version, commit_properties=properties)
        except (DeltaError, OSError):
            newest = open_table(location)
            found = newest.metadata()
            is_restored = (found.operation, found.rolled_back_to) == ("rollback", version)
            if newest.version == table.version or not is_restored:
                raise
            # only the answer was lost

    try:
        retried(restore)
    except (DeltaError, OSError) as error:
        raise InputError(
            f"{location}: cannot roll back to version {version}; its files are gone, or the table was changed just now "
            f"({one_line(error)})"
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
        return retried(
            lambda: sorted(table.vacuum(retention_hours, dry_run=dry_run, enforce_retention_duration=False, full=True))
        )
    except (DeltaError, OSError) as error:
        raise InputError(f"{location}: vacuum stopped ({one_line(error)}); start it again") from error


def forget(location: str, user_ids: Collection[str], *, config: DataFileConfig | None = None) -> Forgotten:
    """Commit a version without some users; only the buckets that hold them are written again.

    Earlier versions keep the users until `vacuum` removes their files after the retention. After a crash, call it
    again: nothing is lost, and a call that finds none of the users commits nothing.

    Raises:
        InputError: no table, or another publisher was faster.
    """
    table = open_table(location)
    wanted = sorted(set(user_ids))
    present = table.read(user_ids=wanted, columns=["user_id"])["user_id"]
    users = present.unique()
    version = table.version
    if len(users):
        version = publish(location, _version_without(table, users, len(present), config or DataFileConfig()))
    absent = sorted(set(wanted) - set(users.to_pylist()))
    return Forgotten(version, len(users), len(present), tuple(absent))


def _version_without(table: EmbeddingTable, users: pa.Array, rows: int, config: DataFileConfig) -> NewVersion:
    run = f"forget-{table.version}-{uuid.uuid4().hex[:12]}"  # nothing of the users, not even a hash
    buckets = sorted(set(bucket_of(users, table.buckets).tolist()))
    files = [_bucket_without(table, bucket, users, run, config) for bucket in buckets]
    forgotten = ForgottenRows(users=len(users), rows=rows)
    return NewVersion(
        files=[file for file in files if file.rows],
        run=run,
        buckets=table.buckets,
        replaced=buckets,
        metadata=table.metadata().model_copy(update={"operation": "forget", "forgotten": forgotten}),
        expected_version=table.version,
    )


def _bucket_without(table: EmbeddingTable, bucket: int, users: pa.Array, run: str, config: DataFileConfig) -> DataFile:
    files = [storage.join(table.location, file.path) for file in table.data_files() if file.bucket == bucket]
    rows = scan.read_files(files, SCHEMA.names)
    kept = rows.filter(pc.invert(pc.is_in(rows["user_id"], value_set=users)))
    spacing = spacing_of(files)
    config = config if spacing is None else config.model_copy(update={"precision": "int8"})
    return write_bucket(kept, table.location, run, bucket, config, spacing)

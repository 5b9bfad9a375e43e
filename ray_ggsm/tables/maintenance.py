"""Looking after a table: roll back, forget users, remove files that nothing needs any more."""

import datetime as dt
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import pyarrow.fs as pafs
import tenacity

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.hashing import pseudonym
from ray_ggsm.tables import delta
from ray_ggsm.tables.files import DataFile, DataFileConfig
from ray_ggsm.tables.metadata import ForgottenRows, VersionMetadata
from ray_ggsm.tables.neighbours.layout import DIRECTORY, needed_files
from ray_ggsm.tables.publish import LostRace, NewVersion, check_files, publish
from ray_ggsm.tables.reader import EmbeddingTable, open_table
from ray_ggsm.tables.rewrite import Rewritten, among, without, without_forgotten
from ray_ggsm.tables.suppression import Suppressed, suppress
from ray_ggsm.tables.tags import add_entry, read_entry, read_tags

T = TypeVar("T")
ATTEMPTS = 10
"""Attempts of `forget`, which others may overtake."""


@dataclass(frozen=True)
class Forgotten:
    """What `forget` did."""

    version: int
    """Newest version, without the users."""
    users: int
    """Users who had rows in the version before."""
    rows: int
    """Rows that these users had."""
    absent: tuple[str, ...]
    """Users who had none, neither there nor in a tagged version, sorted."""
    tags: tuple[str, ...] = ()
    """Tags whose versions had rows of the users, by name."""


def rollback(
    location: str, version: int | str, *, key: bytes | None = None, config: DataFileConfig | None = None
) -> int:
    """Commit a new version with the rows of an earlier one, less the users who were forgotten since.

    Args:
        location: the table's location.
        version: number of the earlier version, or name of a tag.
        key: key of the list of forgotten users; needed if somebody was forgotten since.
        config: how files that must be written again are stored.

    Returns:
        The number of the new version.

    Raises:
        InputError: no such earlier version, vacuum has removed its files, or the key is missing or another one.
        LostRace: another publisher was faster.
    """
    table = open_table(location)
    if version == table.version:
        raise InputError(f"{location}: version {version} is the newest one; name an earlier one (see history)")
    run = _run("rollback", table)
    found = without_forgotten(table, version, key, run, config)
    try:
        check_files(table.location, found.rewritten.files)
    except InputError as error:
        raise InputError(f"{location}: cannot roll back to version {version}; its files are gone ({error})") from error
    metadata, left_out = table.metadata(version), found.rewritten
    update: dict[str, object] = {"operation": "rollback", "rolled_back_to": found.version}
    if found.suppressed:
        update["suppressed"] = found.suppressed
    if left_out.users:
        update["forgotten"] = ForgottenRows(users=len(left_out.users), rows=left_out.rows)
    return _commit(table, left_out, run, metadata.model_copy(update=update))


def vacuum(location: str, retention_hours: int, *, dry_run: bool) -> list[str]:
    """Remove the files that neither a tag nor a version of the last `retention_hours` names; returns their paths below
    the table, sorted.

    Files that were written but never published go as well when they are older; so the retention must be longer than
    the longest run. Versions that used a removed file can no longer be read. Indices of the newest version and of tags
    are kept, and those that were built since.

    Raises:
        InputError: no table, or a negative retention.
    """
    if retention_hours < 0:
        raise InputError(f"retention: expected a number of hours, 0 or more, found {retention_hours}")
    location = storage.absolute(location)
    delta.load(location)
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(hours=retention_hours)
    older = _older_files(location, moment)
    table = delta.load(location)  # after the list was made, which takes a while
    kept = {file.path for file in delta.files(table)} | delta.removed_since(table, location, moment)
    tagged = [tag.files for tag in read_tags(location).values()]
    kept |= {file.path for files in tagged for file in files}
    kept |= needed_files(location, [delta.files(table), *tagged], older)
    removed = sorted(older - kept)
    if not dry_run:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(storage.remove, [storage.join(location, path) for path in removed]))
    return removed


def _older_files(location: str, moment: dt.datetime) -> set[str]:
    """Paths below the table of its files from before a moment; what begins with `_`, such as the log, is left out, but
    not indices."""
    fs, root = storage.arrow_filesystem(location)
    found = storage.retried(lambda: fs.get_file_info(pafs.FileSelector(root, recursive=True)))
    files = {info.path.removeprefix(root).lstrip("/"): info for info in found if info.type == pafs.FileType.File}
    older = {path for path, info in files.items() if info.mtime < moment}
    return {path for path in older if path[0] not in "_." or path.startswith(f"{DIRECTORY}/")}


def forget(location: str, user_ids: Collection[str], key: bytes, *, config: DataFileConfig | None = None) -> Forgotten:
    """Put users on the list of the forgotten, then commit a version without them and take them out of tagged ones.

    Only the buckets that hold them are written again. A user may be named in the table by the id or by its pseudonym
    (`ray_ggsm.hashing.pseudonym`, with the same key). Earlier versions keep the users until `vacuum` removes their
    files after the retention. After a crash, call it again: nothing is lost, and a call that finds nothing to do
    commits nothing. Publishers who began before must see the list: so there is a commit also if nobody is there.

    Raises:
        InputError: no table, or its list has another key.
        LostRace: other publishers were faster, several times in a row.
    """
    names = {name: user for user in user_ids for name in (user, pseudonym(user, key))}
    open_table(location)
    suppressed = suppress(location, user_ids, key)
    version, newest = _again(lambda: _forget_newest(location, names, suppressed, config))
    tagged = {tag: _again(partial(_forget_tagged, location, tag, names, config)) for tag in read_tags(location)}
    there = {names[name] for name in [*newest.users, *(user for users in tagged.values() for user in users)]}
    absent = tuple(sorted(set(user_ids) - there))
    return Forgotten(version, len(newest.users), newest.rows, absent, tuple(tag for tag in tagged if tagged[tag]))


def _again(work: Callable[[], T]) -> T:
    """The result of `work`, which is done again when another publisher was faster."""
    attempts = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random(0, 1),
        retry=tenacity.retry_if_exception_type(LostRace),
        reraise=True,
    )
    return attempts(work)


def _forget_newest(
    location: str, names: Mapping[str, str], suppressed: Suppressed, config: DataFileConfig | None
) -> tuple[int, Rewritten]:
    """Take users out of the newest version; returns the number of the version without them, and its files."""
    table = open_table(location)
    run = _run("forget", table)
    found = without(location, table.data_files(), among(names, table.buckets), run, config)
    metadata = table.metadata()
    honoured = metadata.suppressed or 0
    if not found.users and honoured >= suppressed.version:
        return table.version, found
    others = frozenset().union(*suppressed.entries[honoured:]) - names.keys()  # a forget that has not committed
    update = {
        "operation": "forget",
        "forgotten": ForgottenRows(users=len(found.users), rows=found.rows),
        "suppressed": honoured if others else max(honoured, suppressed.version),
    }
    return _commit(table, found, run, metadata.model_copy(update=update)), found


def _forget_tagged(location: str, tag: str, names: Mapping[str, str], config: DataFileConfig | None) -> tuple[str, ...]:
    """Take users out of a tagged version; returns those who had rows."""
    table, before = open_table(location), read_entry(location, tag)
    run = _run("forget", table)
    found = without(location, before.files, among(names, table.buckets), run, config)
    if found.users and add_entry(location, tag, before, before.version, found.files) is None:
        raise LostRace(f"{location}: tag '{tag}' was changed just now; start again")
    return found.users


def _commit(table: EmbeddingTable, found: Rewritten, run: str, metadata: VersionMetadata) -> int:
    """Commit a version of the files that were found; buckets with the same ones as in the newest version are kept."""
    before, after = _by_bucket(table.data_files()), _by_bucket(found.files)
    replaced = [bucket for bucket in sorted({*before, *after}) if before.get(bucket) != after.get(bucket)]
    return publish(
        table.location,
        NewVersion(
            files=[file for bucket in replaced for file in after.get(bucket, ())],
            run=run,
            buckets=table.buckets,
            replaced=replaced,
            metadata=metadata,
            expected_version=table.version,
        ),
    )


def _by_bucket(files: Iterable[DataFile]) -> dict[int, list[DataFile]]:
    """Bucket -> its files."""
    found: dict[int, list[DataFile]] = {}
    for file in files:
        found.setdefault(file.bucket, []).append(file)
    return found


def _run(operation: str, table: EmbeddingTable) -> str:
    return f"{operation}-{table.version}-{uuid.uuid4().hex[:12]}"  # nothing of the users, not even a hash

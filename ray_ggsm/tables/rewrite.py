"""Writing the data files of a version again without some users; files that have none of them stay as they are."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables import delta, scan
from ray_ggsm.tables.files import DataFile, DataFileConfig, spacing_of, write_bucket
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import SCHEMA
from ray_ggsm.tables.suppression import Suppressed, read_suppressed
from ray_ggsm.tables.tags import read_tag
from ray_ggsm.tables.user_lists import by_bucket

Leaving = Callable[[int, list[str]], pa.Array]
"""Number of a bucket and its files (full locations) -> the users in them who are to be left out, (N,) strings."""


@dataclass(frozen=True)
class Rewritten:
    """The files of a version without some users."""

    files: tuple[DataFile, ...]
    """All files, by bucket; a bucket where nobody is left has none."""
    users: tuple[str, ...] = ()
    """Users who were left out."""
    rows: int = 0
    """Rows that they had."""


@dataclass(frozen=True)
class Honouring:
    """A version without the users who were forgotten since."""

    version: int
    """Its number."""
    suppressed: int
    """Number of entries of the list of forgotten users that the files honour."""
    rewritten: Rewritten
    """Its files."""


def among(users: Collection[str], buckets: int) -> Leaving:
    """Some users leave; `buckets` is the number of the table's buckets."""
    named = by_bucket(pa.array(users, pa.string()), buckets)

    def leaving(bucket: int, files: list[str]) -> pa.Array:
        if bucket not in named:
            return pa.array([], pa.string())
        return scan.read_files(files, ["user_id"], [named[bucket]] * len(files))["user_id"].unique()

    return leaving


def without(
    location: str, files: Sequence[DataFile], leaving: Leaving, run: str, config: DataFileConfig | None = None
) -> Rewritten:
    """Write files of the table at `location` again, as files of `run`, where users leave; one file after the other.

    Raises:
        InputError: a file is missing or damaged.
    """
    some: dict[int, list[DataFile]] = {}
    for file in files:
        some.setdefault(file.bucket, []).append(file)
    found: list[DataFile] = []
    users: list[str] = []
    for bucket, before in sorted(some.items()):
        paths = [storage.join(location, file.path) for file in before]
        gone = leaving(bucket, paths)
        users += gone.to_pylist()
        found += _written(location, bucket, paths, gone, run, config or DataFileConfig()) if len(gone) else before
    rows = sum(file.rows for file in files) - sum(file.rows for file in found)
    return Rewritten(tuple(found), tuple(users), rows)


def without_forgotten(
    table: EmbeddingTable, version: int | str, key: bytes | None, run: str, config: DataFileConfig | None = None
) -> Honouring:
    """The files of a version, or of a tag, less the users who were forgotten since.

    Raises:
        InputError: no such version, its files are gone, or the key of the list is needed and missing or another one.
    """
    number = read_tag(table.location, version).version if isinstance(version, str) else version
    assert number is not None, "a tag that was removed is no tag"
    files, suppressed = table.data_files(version), read_suppressed(table.location)
    _check_listed(table, number)
    if (table.metadata(number).suppressed or 0) >= suppressed.version:
        return Honouring(number, suppressed.version, Rewritten(tuple(files)))
    suppressed.check_key(key)
    rewritten = without(table.location, files, _listed(suppressed, key), run, config)
    return Honouring(number, suppressed.version, rewritten)


def forgotten_in(table: EmbeddingTable, version: int | str | None) -> pa.Array:
    """The users in a version, or a tag, who are on the list of the forgotten, (N,) strings.

    It takes the key that the table was opened with; without it, nobody is.
    """
    if table.suppression.key is None or table.honours_list(version):
        return pa.array([], pa.string())
    files: dict[int, list[str]] = {}
    for file in table.data_files(version):
        files.setdefault(file.bucket, []).append(storage.join(table.location, file.path))
    some = []
    for of_bucket in files.values():
        users = scan.read_files(of_bucket, ["user_id"])["user_id"]
        some.append(users.filter(table.suppression.gone(users)).combine_chunks())
    return pa.concat_arrays([pa.array([], pa.string()), *some]).unique()


def _check_listed(table: EmbeddingTable, version: int) -> None:
    """Refuse a version that has users who were forgotten when there were no lists."""
    since = delta.history(table.location, version + 1, table.version) if version < table.version else []
    unlisted = [each.version for each in since if each.operation == "forget" and each.metadata.suppressed is None]
    if unlisted:
        raise InputError(
            f"{table.location}: version {unlisted[0]} has forgotten users who are still in version {version}, and "
            f"there was no list of them yet; choose version {unlisted[0]} or a later one"
        )


def _listed(suppressed: Suppressed, key: bytes | None) -> Leaving:
    """Everybody on the list leaves."""

    def leaving(bucket: int, files: list[str]) -> pa.Array:
        users = scan.read_files(files, ["user_id"])["user_id"]
        return users.filter(suppressed.gone(users, key)).unique()

    return leaving


def _written(
    location: str, bucket: int, paths: list[str], gone: pa.Array, run: str, config: DataFileConfig
) -> list[DataFile]:
    """A bucket's rows without some users, in one file; no file where no row is left."""
    rows = scan.read_files(paths, SCHEMA.names)
    kept = rows.filter(pc.invert(pc.is_in(rows["user_id"], value_set=gone)))
    spacing = spacing_of(paths)
    config = config if spacing is None else config.model_copy(update={"precision": "int8"})
    return [write_bucket(kept, location, run, bucket, config, spacing)] if len(kept) else []

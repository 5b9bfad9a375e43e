"""All that a table has about one user, version by version."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import scan
from ray_ggsm.tables.metadata import Commit
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import KEY, SCHEMA
from ray_ggsm.tables.timeline import read_timeline


@dataclass(frozen=True)
class UserHistory:
    """One user in the versions of a table."""

    versions: tuple[tuple[Commit, pa.Table], ...]
    """Versions that have rows of the user (columns of SCHEMA), the oldest first."""
    unreadable: tuple[int, ...]
    """Versions that may have had rows of the user, whose files are gone."""
    dead_letters: tuple[tuple[str, pa.Table], ...]
    """Files (full locations) with rejected rows of the user, and these."""
    forgotten: bool | None = False
    """Whether the user is on the list of the forgotten; None: there is a list, and no key of it."""
    held_versions: tuple[int, ...] = ()
    """Versions that still hold rows of a forgotten user, which are not returned."""
    held_files: tuple[str, ...] = ()
    """Files (full locations) that still hold rejected rows of a forgotten user, which are not returned."""


def user_history(table: EmbeddingTable, names: Collection[str]) -> UserHistory:
    """The rows of a user in all versions, each file read once; of a forgotten user only where they still are.

    Args:
        table: the table, opened with the key of the list of forgotten users if somebody has it.
        names: what the user may be called in it: the id, the pseudonym.

    Raises:
        InputError: a file is damaged.
    """
    timeline = read_timeline(table.location, table.history()[::-1])
    buckets = set(bucket_of(pa.array(names, pa.string()), table.buckets).tolist())
    files = {file.path: file for bucket in sorted(buckets) for file in timeline.files.get(bucket, ())}
    places = {path: storage.join(table.location, path) for path in files}
    gone = scan.missing(list(places.values()))
    present = [path for path in files if places[path] not in gone]
    with ThreadPoolExecutor(scan.THREADS) as pool:
        found = pool.map(lambda path: scan.read_users(places[path], SCHEMA.names, sorted(names))[0], present)
        rows = dict(zip(present, found, strict=True))
    versions, unreadable = [], []
    for commit in timeline.commits:
        if commit.operation.startswith("vacuum"):
            continue
        held = [path for path, file in files.items() if file.is_in(commit.version)]
        if any(path not in rows for path in held):
            unreadable.append(commit.version)
        of_version = pa.concat_tables([SCHEMA.empty_table(), *(rows[path] for path in held if path in rows)])
        if len(of_version):
            versions.append((commit, of_version.sort_by([(name, "ascending") for name in KEY])))
    letters = _dead_letters(table.location, names)
    if not pc.any(table.suppression.gone(pa.chunked_array([[*names]]))).as_py():
        forgotten = None if table.suppression.state == "no key" else False
        return UserHistory(tuple(versions), tuple(unreadable), letters, forgotten)
    holding = tuple(commit.version for commit, _ in versions)
    return UserHistory((), tuple(unreadable), (), True, holding, tuple(file for file, _ in letters))


def _dead_letters(location: str, names: Collection[str]) -> tuple[tuple[str, pa.Table], ...]:
    """Rejected rows of a user that runs left in the table's directory."""
    found = []
    for file in storage.list_files(storage.join(location, "staging"), ".parquet"):
        if "/dead_letters/" in file:
            fs, path = storage.arrow_filesystem(file)
            rows = pq.read_table(path, filesystem=fs, partitioning=None)
            rows = rows.filter(pc.is_in(rows["user_id"], value_set=pa.array(names, pa.string())))
            if len(rows):
                found.append((file, rows))
    return tuple(found)

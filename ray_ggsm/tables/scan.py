"""Reading the rows of data files: by user through row-group statistics, several files at a time.

Legend: N rows, G row groups.
"""

import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables.files import DataFile, describe
from ray_ggsm.tables.schema import SCHEMA

T = TypeVar("T")
THREADS = 8
"""Files that are read at a time."""


def read_files(
    files: Sequence[str],
    columns: Sequence[str],
    users: Sequence[list[str]] | None = None,
    as_of: dt.datetime | None = None,
) -> pa.Table:
    """Rows of some files (full locations), file by file in their order.

    `users` lists for each file the users, sorted, whose rows are wanted from it; None: all rows.

    Raises:
        InputError: a file is missing or damaged.
    """
    wanted = [None] * len(files) if users is None else users
    with ThreadPoolExecutor(THREADS) as pool:
        tables = list(pool.map(lambda file, of_file: _read(file, list(columns), of_file, as_of), files, wanted))
    return pa.concat_tables(tables) if tables else pa.schema([SCHEMA.field(n) for n in columns]).empty_table()


def problems(location: str, files: Sequence[DataFile], deep: bool) -> list[str]:
    """What is wrong with the files of a table, one sentence each; `deep` also compares every page's checksum."""
    found = []
    for expected in files:
        file = storage.join(location, expected.path)
        try:
            there = describe(location, expected.path)
            if there != expected:
                found.append(
                    f"{file}: the log says {expected.rows} rows and {expected.size} bytes, the file has "
                    f"{there.rows} and {there.size}"
                )
            elif deep:
                read_files([file], SCHEMA.names)
        except InputError as error:
            found.append(str(error))
    return found


def read_users(file: str, columns: Sequence[str], users: list[str]) -> tuple[pa.Table, np.ndarray]:
    """Rows of some users (sorted) in a data file, and their positions in it, int64 (N,); raises like `read_files`."""

    def read(parquet: pq.ParquetFile) -> tuple[pa.Table, np.ndarray]:
        starts = _starts(parquet.metadata)
        groups = _groups(parquet.metadata, users)
        table = parquet.read_row_groups(groups, columns=list(columns), use_threads=False)
        spans = [np.arange(starts[group], starts[group + 1]) for group in groups]
        return table, np.concatenate([np.zeros(0, dtype=np.int64), *spans])

    table, position_N = _opened(file, read)
    wanted = pc.is_in(table["user_id"], value_set=pa.array(users, pa.string()))
    return table.filter(wanted), position_N[wanted.to_numpy()]


def read_positions(file: str, column: str, position_N: np.ndarray) -> pa.ChunkedArray:
    """A column of the rows at some positions (sorted) of a data file, (N,); raises like `read_files`."""

    def read(parquet: pq.ParquetFile) -> pa.ChunkedArray:
        starts = _starts(parquet.metadata)
        group_N = np.searchsorted(starts, position_N, side="right") - 1
        groups = np.unique(group_N)
        sizes = np.diff(starts)[groups]
        place_G = np.cumsum(sizes) - sizes - starts[groups]  # of a group's rows among those read, less in the file
        values = parquet.read_row_groups(groups.tolist(), columns=[column], use_threads=False)[column]
        return values.take(pa.array(position_N + place_G[np.searchsorted(groups, group_N)]))

    return _opened(file, read)


def missing(files: Sequence[str]) -> set[str]:
    """Those of some data files (full locations) that do not exist."""
    if not files:
        return set()
    fs = storage.arrow_filesystem(files[0])[0]
    paths = [storage.arrow_filesystem(file)[1] for file in files]
    infos = storage.retried(lambda: fs.get_file_info(paths))
    return {file for file, info in zip(files, infos, strict=True) if info.type != pafs.FileType.File}


def open_file(location: str) -> pa.NativeFile:
    """Open a data file for reading at any position."""
    fs, path = storage.arrow_filesystem(location)
    return fs.open_input_file(path)


def _read(file: str, columns: list[str], users: list[str] | None, as_of: dt.datetime | None) -> pa.Table:
    filters = [name for name, value in (("user_id", users), ("as_of", as_of)) if value is not None]
    needed = [name for name in SCHEMA.names if name in columns or name in filters]

    def read(parquet: pq.ParquetFile) -> pa.Table:
        groups = range(parquet.num_row_groups) if users is None else _groups(parquet.metadata, users)
        return parquet.read_row_groups(list(groups), columns=needed, use_threads=False)

    table = _opened(file, read)
    if users is not None:
        table = table.filter(pc.is_in(table["user_id"], value_set=pa.array(users, pa.string())))
    if as_of is not None:
        table = table.filter(pc.equal(table["as_of"], pa.scalar(as_of, SCHEMA.field("as_of").type)))
    return table.select(columns)


def _opened(file: str, read: Callable[[pq.ParquetFile], T]) -> T:
    """What `read` finds in a data file."""

    def read_once() -> T:
        with (
            open_file(file) as source,
            pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as parquet,
        ):
            return read(parquet)

    try:
        return storage.retried(read_once)
    except FileNotFoundError as error:
        raise InputError(f"{file}: this data file is gone; a version is readable until vacuum removes it") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{file}: this data file cannot be read ({' '.join(str(error).split())}); `jobs/tables.py verify` lists "
            "all that is wrong with the table"
        ) from error


def _starts(metadata: pq.FileMetaData) -> np.ndarray:
    """The position of each row group's first row, and the number of rows after them, int64 (G + 1,)."""
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return np.cumsum([0, *sizes])


def _groups(metadata: pq.FileMetaData, users: list[str]) -> list[int]:
    """Row groups whose range of user ids contains one of the users (sorted)."""
    found = []
    column = metadata.schema.names.index("user_id")
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        known = statistics is not None and statistics.has_min_max
        if not known or bisect_left(users, statistics.min) < bisect_right(users, statistics.max):
            found.append(group)
    return found

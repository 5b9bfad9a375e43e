"""Reading the rows of data files: by user through row-group statistics, several files at a time."""

import datetime as dt
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables.schema import SCHEMA

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


def open_file(location: str) -> pa.NativeFile:
    """Open a data file for reading at any position."""
    fs, path = storage.arrow_filesystem(location)
    return fs.open_input_file(path)


def _read(file: str, columns: list[str], users: list[str] | None, as_of: dt.datetime | None) -> pa.Table:
    filters = [name for name, value in (("user_id", users), ("as_of", as_of)) if value is not None]
    needed = [name for name in SCHEMA.names if name in columns or name in filters]

    def read() -> pa.Table:
        with (
            open_file(file) as source,
            pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True) as parquet,
        ):
            groups = range(parquet.num_row_groups) if users is None else _groups(parquet.metadata, users)
            return parquet.read_row_groups(list(groups), columns=needed, use_threads=False)

    try:
        table = storage.retried(read)
    except FileNotFoundError as error:
        raise InputError(f"{file}: this data file is gone; a version is readable until vacuum removes it") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{file}: this data file cannot be read ({' '.join(str(error).split())}); `jobs/tables.py verify` lists "
            "all that is wrong with the table"
        ) from error
    if users is not None:
        table = table.filter(pc.is_in(table["user_id"], value_set=pa.array(users, pa.string())))
    if as_of is not None:
        table = table.filter(pc.equal(table["as_of"], pa.scalar(as_of, SCHEMA.field("as_of").type)))
    return table.select(columns)


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

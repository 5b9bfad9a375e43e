"""Files of a bucket: written when rows arrive, and again without the rows that go."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.data.store.columns import BUCKET
from ray_ggsm.data.store.log import StoreFile, iso

ROW_GROUP = 128 * 1024
"""Rows."""


def write_bucket(
    rows: pa.Table, location: str, time_column: str | None, bucket: int, sequences: tuple[int, int], run: str
) -> StoreFile:
    """Write rows of one bucket as a file of a table.

    Args:
        rows: with the table's columns.
        location: the table's place.
        time_column: column of the time, if it has one.
        bucket: number of the bucket.
        sequences: first and last change that the rows came with.
        run: random name of this change, so that no two attempts write the same file.
    """
    first, last = sequences
    path = f"{BUCKET}={bucket}/s{first:08d}-{last:08d}-{run[:16]}.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(rows.unify_dictionaries(), sink, compression="zstd", compression_level=1, row_group_size=ROW_GROUP)
    data = sink.getvalue()
    storage.retried(lambda: storage.write_bytes(storage.join(location, path), data.to_pybytes()))
    times = None if time_column is None else pc.min_max(rows[time_column])
    first_time, last_time = (None if times is None else iso(times[end].as_py()) for end in ("min", "max"))
    return StoreFile(path, bucket, data.size, len(rows), first_time, last_time)


def by_bucket(tables: Sequence[pa.Table]) -> dict[int, pa.Table]:
    """Bucket -> its rows, without the column BUCKET, by which each table is sorted."""
    pieces: dict[int, list[pa.Table]] = {}
    for table in tables:
        bucket_N, rows = table[BUCKET].to_numpy(), table.drop_columns(BUCKET)
        starts = [0, *(np.flatnonzero(np.diff(bucket_N)) + 1).tolist(), len(rows)] if len(rows) else [0]
        for start, stop in pairwise(starts):
            pieces.setdefault(int(bucket_N[start]), []).append(rows.slice(start, stop - start))
    return {bucket: pa.concat_tables(some) for bucket, some in sorted(pieces.items())}


def read_files(location: str, files: Sequence[StoreFile], schema: pa.Schema) -> pa.Table:
    """The rows of some files of a table, in their order."""
    tables = []
    for file in files:
        fs, path = storage.arrow_filesystem(storage.join(location, file.path))
        tables.append(storage.retried(lambda: pq.read_table(path, filesystem=fs, partitioning=None)).cast(schema))  # noqa: B023
    return pa.concat_tables(tables) if tables else schema.empty_table()

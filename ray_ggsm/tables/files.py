"""Data files of an embedding table: one Parquet file per run and bucket, written whole or not at all.

A file is `<table>/data/<run>/bucket=<k>/part-00000.parquet`. Its rows are sorted by user, so that a look-up reads only
the row groups whose range of user ids (the only column with statistics) holds the user. No reader sees a file before a
commit names it. The log keeps a file's size and row count and no user ids: what was forgotten stays forgotten.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError
from ray_ggsm.tables.schema import KEY, SCHEMA


class TableConfig(Config):
    """How vectors are stored."""

    precision: Literal["float32", "float16"] = "float32"
    """float16: values are rounded to half precision before they are stored as float32, which halves the files."""
    rows_per_group: int = Field(256, ge=1)
    """Rows that a look-up of one user reads; larger groups make full scans a little cheaper."""


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table; `dataclasses.asdict` and `DataFile(**values)` carry it through JSON."""

    path: str
    """below the table's location"""
    bucket: int
    size: int
    """bytes"""
    rows: int


def check_run(run: str) -> None:
    """Refuse names of runs that cannot be part of a path in every store."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run):
        raise InputError(f"run '{run}': expected letters, digits, '.', '_' and '-', starting with a letter or digit")


def bucket_path(run: str, bucket: int) -> str:
    """Where a run writes a bucket's file, below the table's location."""
    return f"data/{run}/bucket={bucket}/part-00000.parquet"


def write_bucket(table: pa.Table, location: str, run: str, bucket: int, config: TableConfig) -> DataFile:
    """Write one bucket's rows, sorted, over what an earlier attempt of the run left; held in memory until complete.

    Never for a run that has been published (`publish.published_version`): its files belong to a version.

    Raises:
        InputError: a value is null, or a vector does not fit the precision.
    """
    check_run(run)
    path = bucket_path(run, bucket)
    table = table.select(SCHEMA.names).cast(SCHEMA)
    for name in SCHEMA.names:
        if table[name].null_count:
            raise InputError(f"{path}: {table[name].null_count} rows without {name}; every row needs a value")
    if config.precision == "float16":
        rounded = [_rounded(chunk, path) for chunk in table["embedding"].chunks]
        column = pa.chunked_array(rounded, SCHEMA.field("embedding").type)
        table = table.set_column(SCHEMA.get_field_index("embedding"), "embedding", column)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.sort_by([(name, "ascending") for name in KEY]),
        sink,
        row_group_size=config.rows_per_group,
        compression="zstd",
        compression_level=3,
        use_dictionary=["as_of", "instruction", "encoder", "run"],
        column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
        write_statistics=["user_id"],
        sorting_columns=pq.SortingColumn.from_ordering(SCHEMA, [(name, "ascending") for name in KEY]),
        write_page_checksum=True,
    )
    data = sink.getvalue().to_pybytes()
    storage.write_bytes(storage.join(location, path), data)
    return DataFile(path, bucket, len(data), table.num_rows)


def describe(location: str, path: str) -> DataFile:
    """What a file's footer says.

    Raises:
        InputError: the file is missing, truncated, no Parquet file, or has other columns than a table's files.
    """
    file = storage.join(location, path)
    match = re.search(r"bucket=(\d+)/", path)
    if not match:
        raise InputError(f"{file}: expected bucket=<number> in the path of a data file")
    fs, name = storage.arrow_filesystem(file)
    size = storage.retried(lambda: fs.get_file_info(name))
    if size.type != pafs.FileType.File:
        raise InputError(f"{file}: the data file is missing")
    try:
        footer = storage.retried(lambda: pq.read_metadata(name, filesystem=fs))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{file}: damaged, {size.size} bytes without a readable Parquet footer ({' '.join(str(error).split())}); "
            "write it again, or roll the table back"
        ) from error
    if not footer.schema.to_arrow_schema().equals(SCHEMA):
        raise InputError(f"{file}: expected the columns {', '.join(SCHEMA.names)}, found {footer.schema.names}")
    return DataFile(path, int(match[1]), size.size, footer.num_rows)


def _rounded(vectors: pa.ListArray, path: str) -> pa.ListArray:
    values = vectors.values.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    if (np.isinf(half) & np.isfinite(values)).any():
        raise InputError(f"{path}: a vector has values beyond 65504, the largest float16; use precision: float32")
    return pa.ListArray.from_arrays(vectors.offsets, pa.array(half))

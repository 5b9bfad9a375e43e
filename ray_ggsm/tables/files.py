"""Data files of an embedding table: one Parquet file per run and bucket, written whole or not at all.

A file is `<table>/data/<run>/bucket=<k>/part-*.parquet`. Its rows are sorted by user, so that a look-up reads only
the row groups whose range of user ids holds the user; `user_id` is the only column with statistics. No reader sees a
file before a commit names it. The log keeps a file's size and row count and no user ids: forgotten users stay
forgotten.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Runtime
from ray_ggsm.tables.schema import KEY, SCHEMA

ELEMENT = "embedding.list.element"
SPACING = "ray_ggsm.spacing"
"""Key of a file's metadata: spacing of its int8 levels."""
NOTES = "ray_ggsm.notes"
"""Key of a file's metadata: what its writer has to say about it."""
LEVELS = 127
"""Levels on each side of zero."""


class DataFileConfig(Config):
    """What is stored of vectors, and how."""

    precision: Literal["float32", "float16", "int8"] = "float32"
    """Values are rounded before they are stored as float32, so readers notice nothing: float16 to half precision (54 to
    60 % of the bytes), int8 to 255 levels of even spacing (less than a third). A file's spacing is calibrated
    on its vectors when it is first written, and kept when vectors are carried forward: they are rounded once."""
    dimensions: int | None = Field(None, ge=1)
    """Publish the first so many columns of the vectors, at length 1 again; null: all of them. Train with
    `training.nested` for it. A change encodes everybody again."""
    rows_per_group: Runtime[int] = Field(256, ge=1)
    """Rows that a look-up of one user reads; larger groups make full scans a little cheaper."""


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table."""

    path: str
    """Path below the table's location."""
    bucket: int
    """Number of its bucket."""
    size: int
    """Size in bytes."""
    rows: int
    """Number of rows."""


def check_run(run: str) -> None:
    """Refuse a run's name that cannot be part of a path in every store."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run):
        raise InputError(f"run '{run}': expected letters, digits, '.', '_' and '-', starting with a letter or digit")


def bucket_path(run: str, bucket: int, part: str = "00000") -> str:
    """Path of a run's file for a bucket, below the table's location."""
    return f"data/{run}/bucket={bucket}/part-{part}.parquet"


def write_bucket(
    table: pa.Table,
    location: str,
    run: str,
    bucket: int,
    config: DataFileConfig,
    spacing: float | None = None,
    *,
    part: str = "00000",
    notes: str | None = None,
) -> DataFile:
    """Write one bucket's rows, sorted; held in memory until complete.

    Args:
        table: columns of SCHEMA, in any order.
        location: the table's place.
        run: the run whose file it is.
        bucket: number of the bucket.
        config: how vectors are stored.
        spacing: of the int8 levels that carried vectors lie on (`spacing_of`); None: it is calibrated.
        part: name of the file. Never write one again that a version may have: its files belong to it.
        notes: a text that `notes_of` reads again.

    Raises:
        InputError: a value is null, or a vector does not fit the precision.
    """
    check_run(run)
    path = bucket_path(run, bucket, part)
    table = table.select(SCHEMA.names).cast(SCHEMA)
    for name in SCHEMA.names:
        if table[name].null_count:
            raise InputError(f"{path}: {table[name].null_count} rows without {name}; every row needs a value")
    rounded = _rounded(table, config, spacing, path)
    if notes is not None:
        rounded = rounded.replace_schema_metadata({**(rounded.schema.metadata or {}), NOTES: notes})
    data = _parquet(rounded, config)
    storage.write_bytes(storage.join(location, path), data)
    return DataFile(path, bucket, len(data), table.num_rows)


def _rounded(table: pa.Table, config: DataFileConfig, spacing: float | None, path: str) -> pa.Table:
    """The rows with their vectors rounded to the precision; the table's metadata has the spacing of int8 levels."""
    vectors = table["embedding"]
    if config.precision == "float16":
        vectors = _mapped(vectors, lambda values: _half(values, path))
    elif config.precision == "int8":
        spacing = spacing or _calibrated(vectors)
        vectors = _mapped(vectors, lambda values: _levels(values, spacing))
        table = table.replace_schema_metadata({SPACING: repr(spacing)})
    return table.set_column(SCHEMA.get_field_index("embedding"), SCHEMA.field("embedding"), vectors)


def _parquet(table: pa.Table, config: DataFileConfig) -> bytes:
    """The bytes of a data file."""
    few_values = ["as_of", "instruction", "encoder", "run"]
    if config.precision == "int8":
        few_values.append(ELEMENT)  # 255 different values: one byte each
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.sort_by([(name, "ascending") for name in KEY]),
        sink,
        row_group_size=config.rows_per_group,
        compression="zstd",
        compression_level=3,
        use_dictionary=few_values,
        column_encoding=None if ELEMENT in few_values else {ELEMENT: "BYTE_STREAM_SPLIT"},
        write_statistics=["user_id"],
        sorting_columns=pq.SortingColumn.from_ordering(SCHEMA, [(name, "ascending") for name in KEY]),
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def describe(location: str, path: str) -> DataFile:
    """A data file as its footer describes it.

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


def spacing_of(files: Sequence[str]) -> float | None:
    """Spacing of the int8 levels of some data files (full locations); None: they have none, or several."""
    found = {_footer(file).get(SPACING.encode()) for file in files}
    value = found.pop() if len(found) == 1 else None
    return None if value is None else float(value)


def notes_of(file: str) -> str | None:
    """The notes of a data file (full location); None: it has none."""
    found = _footer(file).get(NOTES.encode())
    return None if found is None else found.decode()


def _footer(file: str) -> Mapping[bytes, bytes]:
    fs, path = storage.arrow_filesystem(file)
    found: Mapping[bytes, bytes] = storage.retried(partial(pq.read_metadata, path, filesystem=fs)).metadata or {}
    return found


def _mapped(vectors: pa.ChunkedArray, rounded: Callable[[np.ndarray], np.ndarray]) -> pa.ChunkedArray:
    chunks = [
        pa.ListArray.from_arrays(c.offsets, pa.array(rounded(c.values.to_numpy(zero_copy_only=False))))
        for c in vectors.chunks
    ]
    return pa.chunked_array(chunks, vectors.type)


def _half(values: np.ndarray, path: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float32)
    if (np.isinf(half) & np.isfinite(values)).any():
        raise InputError(f"{path}: a vector has values beyond 65504, the largest float16; use precision: float32")
    return half


def _levels(values: np.ndarray, spacing: float) -> np.ndarray:
    """Values rounded to the nearest of 255 levels; larger ones become the last level. NaN stays, for the gates."""
    step = np.float32(spacing)
    return np.clip(np.rint(values / step), -LEVELS, LEVELS).astype(np.float32) * step


def _calibrated(vectors: pa.ChunkedArray) -> float:
    """The spacing whose levels reach the largest value, and a tenth further for vectors to come.

    Cutting off rare large values would give a smaller mean error, but it spoils the vectors that they belong to.
    """
    flat = np.abs(vectors.combine_chunks().flatten().to_numpy(zero_copy_only=False))
    largest = np.max(flat, initial=0.0, where=np.isfinite(flat))
    return float(np.float32(1.1 * largest / LEVELS)) or 1.0

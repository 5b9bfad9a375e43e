"""A chunk of user rows before and after encoding: read and validated, then written as a staged file.

A staged file has one row group per bucket of the table, in which `ray_ggsm.building.buckets` finds the bucket's rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.fingerprints import row_fingerprints
from ray_ggsm.data.chunks import Chunk, read_chunk
from ray_ggsm.data.content import content_hashes
from ray_ggsm.data.schema import DEAD_LETTER
from ray_ggsm.data.validate import validate
from ray_ggsm.tables.schema import KEY, SCHEMA

STAGED = SCHEMA.append(pa.field("bucket", pa.int32()))
"""Columns of staged files; `embedding` is null where the table already has the vector."""
OUT_OF_MEMORY = "out_of_memory"
"""Reason of a dead letter whose row did not fit into memory."""

IsKnown = Callable[[pa.ChunkedArray, np.ndarray], np.ndarray]
"""User ids (N,) and row fingerprints (N,) -> whether the table already has the row, (N,) bool."""


@dataclass(frozen=True)
class ReadChunk:
    """A chunk that has been read and validated."""

    rows: pa.Table
    """Good rows, once per instruction, with the columns `row.instruction`, `row.content`, `row.is_known` and
    `row.chunk` (no modality has such a name)."""
    dead_letters: int
    """Number of bad rows."""


def read_rows(chunk: Chunk, build: Build, is_known: IsKnown) -> ReadChunk:
    """Read and validate a chunk, and write its bad rows as dead letters; a chunk without good rows is staged here."""
    good, dead = validate(
        read_chunk(chunk, ["user_id", "as_of", *build.modalities, "tabular", "query"]),
        build.modalities,
        build.features,
        build.max_text_length,
        source=chunk.file,
        zone=build.zone,
    )
    if len(dead):
        storage.write_parquet(build.dead_letters(chunk.number, "invalid"), dead, "zstd")
    parts = [
        _with_instruction(good, build, name, text, is_known) for name, text in build.embedding.instructions.items()
    ]
    table = pa.concat_tables(parts)
    if not len(table):
        _stage(STAGED.empty_table(), build, chunk.number)
    return ReadChunk(
        table.append_column("row.chunk", pa.array([chunk.number] * len(table), pa.int64())), dead_letters=len(dead)
    )


def _with_instruction(rows: pa.Table, build: Build, name: str, text: str, is_known: IsKnown) -> pa.Table:
    if any(build.embedding.instructions.values()):
        rows = _with_query(rows, text)
    content = [column for column in (*build.modalities, "tabular", "query") if column in rows.column_names]
    content_N = content_hashes(rows, content)
    instruction = pa.repeat(name, len(rows))
    known_N = is_known(rows["user_id"], row_fingerprints(rows["user_id"], instruction, content_N))
    columns = {"instruction": instruction, "content": pa.array(content_N), "is_known": pa.array(known_N)}
    for column, values in columns.items():
        rows = rows.append_column(f"row.{column}", values)
    return rows


def _with_query(rows: pa.Table, text: str) -> pa.Table:
    """The rows with `text` as their query; an empty text leaves the queries that they have."""
    query = pa.repeat(text, len(rows)) if text else pa.nulls(len(rows), pa.string())
    if "query" not in rows.column_names:
        return rows.append_column("query", query)
    return rows.set_column(rows.column_names.index("query"), "query", query) if text else rows


def write_staged(rows: pa.Table, fits_N: np.ndarray, chunk: int, build: Build) -> None:
    """Write a chunk's staged file.

    Args:
        rows: columns of STAGED.
        fits_N: bool, whether there was memory for the row; the others become dead letters.
        chunk: number of the chunk.
        build: the build.
    """
    file = build.dead_letters(chunk, "memory")
    if fits_N.all():
        storage.remove(file)  # of an earlier attempt
    else:
        lost = rows.filter(pa.array(~fits_N))
        columns = {
            "user_id": lost["user_id"],
            "as_of": lost["as_of"],
            "reason": pa.repeat(OUT_OF_MEMORY, len(lost)),
            "detail": pa.repeat("too large for the memory, alone in its batch", len(lost)),
        }
        dead = {name: columns.get(name, pa.nulls(len(lost), pa.string())) for name in DEAD_LETTER.names}
        storage.write_parquet(file, pa.table(dead).cast(DEAD_LETTER), "zstd")
    _stage(rows.filter(pa.array(fits_N)), build, chunk)


def _stage(rows: pa.Table, build: Build, chunk: int) -> None:
    rows = rows.sort_by([("bucket", "ascending"), *((name, "ascending") for name in KEY)])
    bucket_N = rows["bucket"].to_numpy()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, STAGED, compression="zstd", use_dictionary=False) as writer:
        for bucket in np.unique(bucket_N):
            start, end = np.searchsorted(bucket_N, [bucket, bucket + 1])
            part = rows.slice(start, end - start)
            writer.write_table(part, row_group_size=max(len(part), 1))
    storage.write_bytes(build.staged(chunk), sink.getvalue().to_pybytes())

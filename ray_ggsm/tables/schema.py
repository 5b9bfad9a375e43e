"""Rows of an embedding table, and the bucket a user belongs to.

Legend: N rows, D width.
"""

import numpy as np
import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.numerics import prefix

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("as_of", pa.timestamp("us", "UTC")),
        ("instruction", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("events", pa.int32()),
        ("content", pa.int64()),
        ("encoder", pa.string()),
        ("run", pa.string()),
    ]
)
"""Columns of the data files, with one row per user, as_of and instruction: `events` counts the history events that the
encoder saw, `content` is a hash of the user's row, `encoder` the encoder's digest, `run` the run that embedded the row.
Other readers see one more column: `bucket` (int32), the partition, which stands in the log and not in the files."""

KEY = ["user_id", "as_of", "instruction"]
"""Columns that no two rows of a version share."""


def rows_to_table(
    user_id: pa.Array | pa.ChunkedArray,
    as_of: pa.Array | pa.ChunkedArray,
    instruction: str,
    events_N: np.ndarray,
    content_N: np.ndarray,
    vector_ND: np.ndarray,
    encoder: str,
    run: str,
) -> pa.Table:
    """A table of rows of one instruction, in the given order; events and content are (N,), vectors (N, D)."""
    N = len(vector_ND)
    columns = [
        *(user_id.cast(pa.string()), as_of.cast(SCHEMA.field("as_of").type), pa.repeat(instruction, N)),
        lists(vector_ND),
        *(pa.array(events_N, pa.int32()), pa.array(content_N, pa.int64()), pa.repeat(encoder, N), pa.repeat(run, N)),
    ]
    return pa.table(columns, schema=SCHEMA)


def lists(vector_ND: np.ndarray) -> pa.ListArray:
    """Vectors (N, D) as the embedding column has them."""
    N, D = vector_ND.shape
    assert N * D < 2**31, "a list column counts its numbers in 32 bits; convert fewer rows at once"
    offsets = pa.array(np.arange(N + 1, dtype=np.int32) * D)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(vector_ND).reshape(-1), pa.float32()))


def matrix(embedding: pa.ChunkedArray) -> np.ndarray:
    """The embedding column as (N, D) float32; (0, 0) when there are no rows. All vectors must have one width."""
    chunks = [chunk for chunk in embedding.chunks if len(chunk)]
    if not chunks:
        return np.zeros((0, 0), dtype=np.float32)
    return np.concatenate([c.flatten().to_numpy(zero_copy_only=False).reshape(len(c), -1) for c in chunks])


def check_dimensions(dimensions: int | None) -> None:
    """Refuse a number of dimensions below 1."""
    if dimensions is not None and dimensions < 1:
        raise InputError(f"dimensions: expected at least 1, found {dimensions}")


def first_dimensions(vector_ND: np.ndarray, dimensions: int) -> np.ndarray:
    """The first dimensions of vectors, at length 1 again; vectors that have no more stay as they are.

    Raises:
        InputError: the vectors have fewer.
    """
    width = vector_ND.shape[1]
    if dimensions > width:
        raise InputError(
            f"dimensions: the vectors have {width}, and {dimensions} were asked for; ask for {width} or fewer"
        )
    return prefix(vector_ND, dimensions)


def shortened(table: pa.Table, dimensions: int | None) -> pa.Table:
    """The rows with the first so many dimensions of their vectors, at length 1 again.

    With None, or where the vectors have exactly so many, they stay as they are.

    Raises:
        InputError: the vectors have fewer.
    """
    vector_ND = matrix(table["embedding"]) if dimensions is not None and len(table) else None
    if dimensions is None or vector_ND is None or vector_ND.shape[1] == dimensions:
        return table
    # a chunk of a list column counts its numbers in 32 bits
    parts = np.array_split(first_dimensions(vector_ND, dimensions), 1 + len(table) * dimensions // 2**30)
    chunks = [
        pa.ListArray.from_arrays(np.arange(len(part) + 1, dtype=np.int32) * dimensions, part.reshape(-1))
        for part in parts
    ]
    at = table.column_names.index("embedding")
    return table.set_column(at, table.schema.field(at), pa.chunked_array(chunks, SCHEMA.field("embedding").type))

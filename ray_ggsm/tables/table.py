"""Embedding tables: Parquet files and a manifest that is written last. Readers trust the manifest, never a listing.

Legend: N rows, D width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("as_of", pa.timestamp("us", "UTC")),
        ("events", pa.int32()),
        ("embedding", pa.list_(pa.float32())),
    ]
)
"""One row per user and as_of; `events` counts the history events that the encoder saw."""

MANIFEST = "manifest.json"


def rows_to_table(
    user_id: pa.ChunkedArray, as_of: pa.ChunkedArray, events_N: np.ndarray, vector_ND: np.ndarray
) -> pa.Table:
    """Rows of an embedding table."""
    N, D = vector_ND.shape
    offsets = pa.array(np.arange(N + 1, dtype=np.int32) * D)
    vectors = pa.ListArray.from_arrays(offsets, pa.array(vector_ND.reshape(-1), pa.float32()))
    return pa.table([user_id, as_of, pa.array(events_N, pa.int32()), vectors], schema=SCHEMA)


def publish(location: str, expected_rows: int, metadata: dict[str, Any]) -> dict[str, Any]:
    """Make the Parquet files below `location` a table.

    Raises:
        RuntimeError: an unexpected number of rows, repeated keys, or vectors that are not finite.
    """
    files = storage.list_files(location, ".parquet")
    table = _read(files)
    keys = table.select(["user_id", "as_of"]).group_by(["user_id", "as_of"]).aggregate([]).num_rows
    if not expected_rows == keys == len(table):
        raise RuntimeError(
            f"{location}: expected {expected_rows} rows, found {len(table)} with {keys} keys; nothing published"
        )
    if not np.isfinite(table["embedding"].combine_chunks().flatten().to_numpy()).all():
        raise RuntimeError(f"{location}: there are vectors with NaN or infinite values; nothing published")
    manifest = {
        **metadata,
        "rows": len(table),
        "width": len(table["embedding"][0]) if len(table) else 0,
        "files": [file.rsplit("/", 1)[-1] for file in files],
    }
    storage.write_json(storage.join(location, MANIFEST), manifest)
    return manifest


def read(location: str) -> pa.Table:
    """The whole table.

    Raises:
        InputError: no table was published there.
    """
    manifest = storage.join(location, MANIFEST)
    if not storage.exists(manifest):
        raise InputError(f"{location}: no embedding table here ({MANIFEST} is missing)")
    return _read([storage.join(location, file) for file in storage.read_json(manifest)["files"]])


def _read(files: Sequence[str]) -> pa.Table:
    tables = []
    for file in files:
        fs, path = storage.arrow_filesystem(file)
        tables.append(pq.read_table(path, schema=SCHEMA, filesystem=fs))
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()

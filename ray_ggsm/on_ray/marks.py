"""Which rows a table already has: a mark per row, one number for its user, its instruction and what it says."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from ray_ggsm import storage
from ray_ggsm.model.event_vectors import keys
from ray_ggsm.tables import scan
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import bucket_of

Marks = Mapping[int, ray.ObjectRef]
"""bucket -> reference to the `row_marks`, sorted, of its rows"""


def known_marks(previous: EmbeddingTable) -> Marks:
    """Bucket -> reference to the `row_marks` of its rows; they stay in shared memory, 8 bytes each, off the driver."""
    files: dict[int, list[str]] = defaultdict(list)
    for file in previous.data_files():
        files[file.bucket].append(storage.join(previous.location, file.path))
    marked = {bucket: _marks.remote(mine) for bucket, mine in files.items()}
    ray.get([rows for _, rows in marked.values()])  # a file that cannot be read ends the run here
    return {bucket: marks for bucket, (marks, _) in marked.items()}


@ray.remote(num_cpus=1, num_returns=2)
def _marks(files: list[str]) -> tuple[np.ndarray, int]:
    rows = scan.read_files(files, ["user_id", "instruction", "content"])
    return np.sort(row_marks(rows["user_id"], rows["instruction"], rows["content"].to_numpy())), len(rows)


def is_known(known: Marks | None, buckets: int, user_id: pa.ChunkedArray, mark_N: np.ndarray) -> np.ndarray:
    """Rows that the table already has, (N,) bool."""
    known_N = np.zeros(len(mark_N), dtype=bool)
    if known is None:
        return known_N
    bucket_N = bucket_of(user_id, buckets)
    there = [int(bucket) for bucket in np.unique(bucket_N) if int(bucket) in known]
    for bucket, mark_K in zip(there, ray.get([known[bucket] for bucket in there]), strict=True):
        at = np.flatnonzero(bucket_N == bucket)
        place = np.minimum(np.searchsorted(mark_K, mark_N[at]), len(mark_K) - 1)
        known_N[at] = mark_K[place] == mark_N[at]
    return known_N


def user_keys(user_id: pa.Array | pa.ChunkedArray, instruction: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """One number for a user and instruction, uint64 (N,)."""
    joined = pc.binary_join_element_wise(user_id, instruction, "\x00")
    return keys(joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined)


def row_marks(
    user_id: pa.Array | pa.ChunkedArray, instruction: pa.Array | pa.ChunkedArray, content_N: np.ndarray
) -> np.ndarray:
    """One number for a user, an instruction and what the row says, uint64 (N,)."""
    return user_keys(user_id, instruction) ^ content_N.view(np.uint64)

"""Fingerprints of rows, which tell whether a table already has a row.

A fingerprint is a 64-bit hash of (user, instruction, content), 8 bytes per row.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.hashing import hash64
from ray_ggsm.tables import scan


def user_keys(user_id: pa.Array | pa.ChunkedArray, instruction: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64-bit hashes of (user, instruction), uint64 (N,)."""
    return hash64(pc.binary_join_element_wise(user_id, instruction, "\x00"))


def row_fingerprints(
    user_id: pa.Array | pa.ChunkedArray, instruction: pa.Array | pa.ChunkedArray, content_N: np.ndarray
) -> np.ndarray:
    """64-bit fingerprints of (user, instruction, content), uint64 (N,); `content_N` is int64."""
    return user_keys(user_id, instruction) ^ content_N.view(np.uint64)


def file_fingerprints(files: Sequence[str]) -> np.ndarray:
    """Fingerprints of the rows in some data files of a table, sorted, uint64 (N,)."""
    rows = scan.read_files(files, ["user_id", "instruction", "content"])
    return np.sort(row_fingerprints(rows["user_id"], rows["instruction"], rows["content"].to_numpy()))


def is_among(fingerprint_N: np.ndarray, known_K: np.ndarray) -> np.ndarray:
    """Whether each fingerprint is one of `known_K` (sorted), (N,) bool."""
    if not len(known_K):
        return np.zeros(len(fingerprint_N), dtype=bool)
    place_N = np.minimum(np.searchsorted(known_K, fingerprint_N), len(known_K) - 1)
    known_N: np.ndarray = known_K[place_N] == fingerprint_N
    return known_N

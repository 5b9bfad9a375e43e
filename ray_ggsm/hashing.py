"""The 64-bit hash of the whole package: blake2b, equal on every machine and in every process.

It names event texts, chooses buckets, and tells whether a row changed. Among a billion different values the expected
number of pairs with equal hashes is 0.03.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa


def hash64(texts: Iterable[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
    """64-bit hashes of texts, uint64 (N,)."""
    values = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else texts
    return _numbers(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in values)


def bucket_of(user_ids: pa.Array | pa.ChunkedArray, buckets: int) -> np.ndarray:
    """Bucket of each user, (N,) int32 in [0, buckets); the same on every machine.

    A bucket of n is cut into buckets of a multiple of n: users share one of 4 if they share one of 8.
    """
    if not len(user_ids):
        return np.zeros(0, dtype=np.int32)
    return (hash64(user_ids) % np.uint64(buckets)).astype(np.int32)


def hash64_of_parts(parts: Iterable[list[bytes]], rows: int) -> np.ndarray:
    """64-bit hashes of `rows` values that come part by part, uint64 (rows,): each item of `parts` has a piece of every
    row, and a row's hash is that of its pieces one after the other."""
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(rows)]
    for pieces in parts:
        for running, piece in zip(hashes, pieces, strict=True):
            running.update(piece)
    return _numbers(running.digest() for running in hashes)


def scramble(value: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser, uint64: neighbouring integers become unrelated ones."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _numbers(digests: Iterator[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), dtype="<u8")

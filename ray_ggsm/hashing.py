"""The hashes of the whole package: blake2b, and sha256 of files' contents; equal on every machine and in every process.

The 64-bit hash names event texts, chooses buckets, and tells whether a row changed. Among a billion different values
the expected number of pairs with equal hashes is 0.03. The keyed hash names users: nobody can compute or invert it
without the key.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PSEUDONYM_BYTES = 16
"""Length of a pseudonym; among a billion users, two are equal with a chance of 1 in 10^21."""


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


def pseudonym(user: str, key: bytes) -> str:
    """The pseudonym of one user, 32 hex digits: BLAKE2b with the key, of the id in UTF-8."""
    return hashlib.blake2b(user.encode(), key=key, digest_size=PSEUDONYM_BYTES).hexdigest()


def pseudonyms(users: pa.Array | pa.ChunkedArray, key: bytes) -> pa.Array:
    """The pseudonym of each user, (N,) strings; null stays null."""
    encoded = pc.dictionary_encode(users.combine_chunks() if isinstance(users, pa.ChunkedArray) else users)
    names = pa.array([pseudonym(user, key) for user in encoded.dictionary.to_pylist()], pa.string())
    return names.take(encoded.indices)


def key_id(key: bytes) -> str:
    """16 hex digits that tell keys apart and say nothing of them."""
    return hashlib.blake2b(b"key of pseudonyms", key=key, digest_size=8).hexdigest()


def scramble(value: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser, uint64: neighbouring integers become unrelated ones."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _numbers(digests: Iterator[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), dtype="<u8")


def content_digest(data: bytes) -> str:
    """16 hex digits of a file's content."""
    return hashlib.sha256(data).hexdigest()[:16]

"""The store of event vectors: each distinct event text is encoded once per event encoder, and found by its hash.

A store is a directory of Parquet parts (key, vector), one directory per event encoder. Parts are only ever added, so
training, embedding and other recipes share one store. Each machine keeps one merged copy on its disk, sorted by key and
mapped into memory: its processes share the pages they touch, and a store may be larger than memory.

Legend: N stored texts, E texts to look up, P texts of one part, H width of the event encoder.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.hashing import hash64

SCHEMA = pa.schema([("key", pa.uint64()), ("vector", pa.list_(pa.float16()))])


def part(texts: pa.Array, vectors_NH: np.ndarray) -> pa.Table:
    """A part of a store, (key, vector), for texts and their vectors (N, H)."""
    offsets = pa.array(np.arange(len(vectors_NH) + 1, dtype=np.int32) * vectors_NH.shape[1])
    vectors = pa.ListArray.from_arrays(offsets, pa.array(vectors_NH.reshape(-1), pa.float16()))
    return pa.Table.from_arrays([pa.array(hash64(texts)), vectors], schema=SCHEMA)


@dataclass(frozen=True)
class VectorStore:
    """The parts of a store at one time: small enough to be sent to every worker, which opens its machine's copy."""

    files: tuple[str, ...]
    """Locations of the parts."""
    cache: str
    """Local directory for merged copies."""

    def open(self) -> "EventVectors":
        """The vectors. The first process of a machine that opens them makes the copy.

        Raises:
            InputError: the cache directory does not belong to the user, or cannot be written.
        """
        return _opened(self)


def find(location: str, cache: str) -> VectorStore:
    """The store below `location` with its present parts; empty when there are none."""
    return VectorStore(tuple(storage.list_files(location, ".parquet")), cache)


class EventVectors:
    """All vectors of a store: sorted keys (N,) and a matrix (N, H), usually mapped from disk."""

    def __init__(self, key_N: np.ndarray, vector_NH: np.ndarray) -> None:
        self.key_N, self.vector_NH = key_N, vector_NH

    @property
    def width(self) -> int:
        """H."""
        return int(self.vector_NH.shape[1])

    def has(self, texts: pa.Array) -> np.ndarray:
        """Whether the store has each text, bool (E,)."""
        return self._find(hash64(texts)) >= 0

    def __call__(self, texts: pa.Array) -> np.ndarray:
        """Vectors of texts, (E, H) float16.

        Raises:
            InputError: a text is not in the store.
        """
        encoded = texts.dictionary_encode()
        found = self._find(hash64(encoded.dictionary))
        if (found < 0).any():
            text = encoded.dictionary[int(np.argmin(found))].as_py()
            raise InputError(f"event text {text[:80]!r} has no vector in the store; encode the rows' events first")
        return self.vector_NH[found[encoded.indices.to_numpy()]]

    def _find(self, key_E: np.ndarray) -> np.ndarray:
        """Row of each key, -1 where it is missing."""
        if not len(self.key_N):
            return np.full(len(key_E), -1)
        row_E = np.minimum(np.searchsorted(self.key_N, key_E), len(self.key_N) - 1)
        return np.where(self.key_N[row_E] == key_E, row_E, -1)


@lru_cache(maxsize=2)
def _opened(store: VectorStore) -> EventVectors:
    if not store.files:
        return EventVectors(np.zeros(0, dtype=np.uint64), np.zeros((0, 0), dtype=np.float16))
    parent = os.path.join(store.cache, digest(os.path.dirname(store.files[0])))
    directory = os.path.join(parent, digest(store.files))
    if not os.path.exists(directory):
        _make_private(store.cache)
        os.makedirs(parent, mode=0o700, exist_ok=True)
        older = [entry.path for entry in os.scandir(parent)]
        building = tempfile.mkdtemp(dir=parent)
        try:
            _merge(store.files, building)
            os.rename(building, directory)
        except OSError:
            if not os.path.exists(directory):  # if it exists, another process was faster
                raise
            older = []
        finally:
            shutil.rmtree(building, ignore_errors=True)
        for path in older:  # a process that has mapped one can go on reading it
            shutil.rmtree(path, ignore_errors=True)
    load = [np.load(os.path.join(directory, name), mmap_mode="r") for name in ("keys.npy", "vectors.npy")]
    return EventVectors(*load)


def _make_private(cache: str) -> None:
    """Make the directory, and check that it belongs to this user."""
    try:
        os.makedirs(cache, mode=0o700, exist_ok=True)
        is_private = os.stat(cache).st_uid == os.getuid() and os.access(cache, os.W_OK)
    except OSError:
        is_private = False
    if not is_private:
        raise InputError(f"ray.cache: {cache} must be a directory that belongs to you and can be written; give another")


def _merge(files: tuple[str, ...], directory: str) -> None:
    """Write `keys.npy`, sorted and distinct, and `vectors.npy` in their order, with one part in memory at a time."""
    key_parts = [_read(file, "key").to_numpy() for file in files]
    key_N, first = np.unique(np.concatenate(key_parts), return_index=True)
    np.save(os.path.join(directory, "keys.npy"), key_N)
    wanted = np.zeros(sum(map(len, key_parts)), dtype=bool)
    wanted[first] = True
    vectors, start = None, 0
    for file, key_P in zip(files, key_parts, strict=True):
        kept_P = wanted[start : start + len(key_P)]
        start += len(key_P)
        if not kept_P.any():
            continue
        flat = _read(file, "vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vector_PH = flat.reshape(len(key_P), -1)
        if vectors is None:
            shape = len(key_N), vector_PH.shape[1]
            vectors = np.lib.format.open_memmap(os.path.join(directory, "vectors.npy"), "w+", np.float16, shape)
        vectors[np.searchsorted(key_N, key_P[kept_P])] = vector_PH[kept_P]
    assert vectors is not None
    vectors.flush()


def _read(file: str, column: str) -> pa.ChunkedArray:
    fs, path = storage.arrow_filesystem(file)
    return storage.retried(lambda: pq.read_table(path, columns=[column], filesystem=fs))[column]

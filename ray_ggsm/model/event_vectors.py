"""The store of event vectors: each distinct event text is encoded once per event encoder, and found by its hash.

A store is a directory of Parquet parts (key, vector), one directory per event encoder. Parts are only ever added, so
training, embedding and other recipes share one store. Each machine keeps a copy on its disk, sorted by key and mapped
into memory: its processes share the pages they touch, and a store may be larger than memory.

The copy is made of a few segments, each a merge of some parts. New parts become a new segment, together with segments
that are not much larger; so a day's new texts cost what they are, and a text is merged again a logarithmic number of
times only.

Legend: N stored texts, E texts to look up, P texts of one part, H width of the event encoder.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.hashing import hash64

PARTS, BUILDING = "parts.json", "building-"
"""File of a segment with the locations of its parts; prefix of the directory of one that is being made."""
MUCH_LARGER = 2
"""A segment of up to so many times the new parts' vectors is merged with them."""
ATTEMPTS = 5
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


@dataclass(frozen=True)
class Segment:
    """Some vectors of a store: sorted keys (N,) and a matrix (N, H), usually mapped from disk."""

    key_N: np.ndarray
    vector_NH: np.ndarray

    def find(self, key_E: np.ndarray) -> np.ndarray:
        """Row of each key, -1 where it is missing."""
        if not len(self.key_N):
            return np.full(len(key_E), -1)
        row_E = np.minimum(np.searchsorted(self.key_N, key_E), len(self.key_N) - 1)
        return np.where(self.key_N[row_E] == key_E, row_E, -1)


class EventVectors:
    """All vectors of a store."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = tuple(segments)

    def __len__(self) -> int:
        """Number of vectors."""
        return sum(len(segment.key_N) for segment in self.segments)

    @property
    def width(self) -> int:
        """H; 0 for an empty store."""
        return int(self.segments[0].vector_NH.shape[1]) if self.segments else 0

    def has(self, texts: pa.Array) -> np.ndarray:
        """Whether the store has each text, bool (E,)."""
        key_E = hash64(texts)
        found_E = np.zeros(len(key_E), dtype=bool)
        for segment in self.segments:
            found_E |= segment.find(key_E) >= 0
        return found_E

    def __call__(self, texts: pa.Array) -> np.ndarray:
        """Vectors of texts, (E, H) float16.

        Raises:
            InputError: a text is not in the store.
        """
        encoded = texts.dictionary_encode()
        key_U = hash64(encoded.dictionary)
        vector_UH = np.zeros((len(key_U), self.width), dtype=np.float16)
        missing = np.arange(len(key_U))
        for segment in self.segments:
            row = segment.find(key_U[missing])
            vector_UH[missing[row >= 0]] = segment.vector_NH[row[row >= 0]]
            missing = missing[row < 0]
        if len(missing):
            text = encoded.dictionary[int(missing[0])].as_py()
            raise InputError(f"event text {text[:80]!r} has no vector in the store; encode the rows' events first")
        return vector_UH[encoded.indices.to_numpy()]


@lru_cache(maxsize=2)
def _opened(store: VectorStore) -> EventVectors:
    if not store.files:
        return EventVectors(())
    _make_private(store.cache)
    parent = os.path.join(store.cache, digest(os.path.dirname(store.files[0])))
    os.makedirs(parent, mode=0o700, exist_ok=True)
    for _ in range(ATTEMPTS):
        try:
            return EventVectors([_load(directory) for directory in _segments(store.files, parent)])
        except FileNotFoundError:  # another process has merged a segment into a larger one just now
            continue
    raise InputError(f"ray.cache: {parent} changes faster than it can be read; remove it")


def _load(directory: str) -> Segment:
    return Segment(*(np.load(os.path.join(directory, name), mmap_mode="r") for name in ("keys.npy", "vectors.npy")))


def _segments(files: Sequence[str], parent: str) -> list[str]:
    """Directories of segments that have the parts `files` together, the largest first; makes one of those missing."""
    wanted, covered = set(files), set[str]()
    chosen: list[tuple[str, int, set[str]]] = []
    there = sorted(_there(parent), key=lambda segment: (-segment[1], segment[0]))
    for directory, size, parts in there:
        if parts <= wanted and not parts & covered:
            chosen.append((directory, size, parts))
            covered |= parts
    missing = wanted - covered
    gone = [d for d, _, parts in there if (parts <= covered or not parts & wanted) and d not in {c[0] for c in chosen}]
    if missing:
        size = sum(_rows(file) for file in missing)
        while chosen and chosen[-1][1] <= MUCH_LARGER * size:
            directory, more, parts = chosen.pop()
            missing, size = missing | parts, size + more
            gone.append(directory)
        chosen.append((_make([file for file in files if file in missing], parent), size, missing))
    for directory in gone:  # a process that has mapped one can go on reading it
        shutil.rmtree(directory, ignore_errors=True)
    return [directory for directory, _, _ in chosen]


def _there(parent: str) -> Iterator[tuple[str, int, set[str]]]:
    """Directory, number of vectors and parts of every segment."""
    for entry in os.scandir(parent):
        try:
            with open(os.path.join(entry.path, PARTS), encoding="utf-8") as file:
                parts = set(json.load(file))
            yield entry.path, len(np.load(os.path.join(entry.path, "keys.npy"), mmap_mode="r")), parts
        except (FileNotFoundError, NotADirectoryError):
            if not entry.name.startswith(BUILDING):  # a copy of an earlier version of this package
                shutil.rmtree(entry.path, ignore_errors=True)


def _make(files: Sequence[str], parent: str) -> str:
    """Make a segment of some parts; returns its directory."""
    directory = os.path.join(parent, digest(list(files)))
    building = tempfile.mkdtemp(dir=parent, prefix=BUILDING)
    try:
        _merge(tuple(files), building)
        with open(os.path.join(building, PARTS), "w", encoding="utf-8") as file:
            json.dump(list(files), file)
        os.rename(building, directory)
    except OSError:
        if not os.path.exists(directory):  # if it exists, another process was faster
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory


def _rows(file: str) -> int:
    fs, path = storage.arrow_filesystem(file)
    rows: int = storage.retried(lambda: pq.read_metadata(path, filesystem=fs)).num_rows
    return rows


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

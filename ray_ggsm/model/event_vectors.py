"""The store of event vectors: every distinct event text is encoded once per event encoder, and found by its hash.

A store is a directory of Parquet parts (key, vector) below `<location>/<event encoder digest>/`. Parts are only ever
added, so training, embedding and other recipes share one store.

Legend: N stored texts, H width of the event encoder.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError

SCHEMA = pa.schema([("key", pa.uint64()), ("vector", pa.list_(pa.float16()))])


def keys(texts: pa.Array) -> np.ndarray:
    """64-bit keys of texts, uint64; equal texts have equal keys on every machine."""
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist()]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def part(texts: pa.Array, vectors_NH: np.ndarray) -> pa.Table:
    """One part of a store."""
    offsets = pa.array(np.arange(len(vectors_NH) + 1, dtype=np.int32) * vectors_NH.shape[1])
    vectors = pa.ListArray.from_arrays(offsets, pa.array(vectors_NH.reshape(-1), pa.float16()))
    return pa.Table.from_arrays([pa.array(keys(texts)), vectors], schema=SCHEMA)


class EventVectors:
    """All vectors of a store in memory: sorted keys and one matrix, which worker processes can share."""

    def __init__(self, key_N: np.ndarray, vector_NH: np.ndarray) -> None:
        self.key_N, self.vector_NH = key_N, vector_NH

    @classmethod
    def read(cls, location: str) -> "EventVectors":
        """Read all parts below `location`; an empty store when there is none."""
        tables = []
        for file in storage.list_files(location, ".parquet"):
            fs, path = storage.arrow_filesystem(file)
            tables.append(pq.read_table(path, schema=SCHEMA, filesystem=fs))
        if not tables:
            return cls(np.zeros(0, dtype=np.uint64), np.zeros((0, 0), dtype=np.float16))
        table = pa.concat_tables(tables).combine_chunks()
        key_N, first = np.unique(table["key"].to_numpy(), return_index=True)
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(key_N, flat.reshape(len(table), -1)[first])

    def missing(self, texts: pa.Array) -> pa.Array:
        """The texts that are not in the store."""
        return texts.filter(pa.array(self._find(keys(texts)) < 0))

    def __call__(self, texts: pa.Array) -> np.ndarray:
        """Vectors of texts, (E, H) float16.

        Raises:
            InputError: a text was never encoded into this store.
        """
        encoded = texts.dictionary_encode()
        found = self._find(keys(encoded.dictionary))
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

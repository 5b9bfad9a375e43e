"""The fingerprints of a table's rows in the cluster's shared memory: 8 bytes per row, off the driver."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import ray

from ray_ggsm import storage
from ray_ggsm.building.fingerprints import file_fingerprints, is_among
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables.reader import EmbeddingTable

Known = Mapping[int, ray.ObjectRef]
"""Bucket -> reference to the sorted fingerprints of its rows."""


def fingerprints_of(table: EmbeddingTable) -> Known:
    """The fingerprints of the newest version, one task per bucket; raises when a file cannot be read."""
    files: dict[int, list[str]] = defaultdict(list)
    for file in table.data_files():
        files[file.bucket].append(storage.join(table.location, file.path))
    tasks = {bucket: _fingerprints.remote(of_bucket) for bucket, of_bucket in files.items()}
    ray.get([rows for _, rows in tasks.values()])
    return {bucket: reference for bucket, (reference, _) in tasks.items()}


@ray.remote(num_cpus=1, num_returns=2)
def _fingerprints(files: list[str]) -> tuple[np.ndarray, int]:
    found = file_fingerprints(files)
    return found, len(found)


def known_rows(known: Known | None, buckets: int, user_id: pa.ChunkedArray, fingerprint_N: np.ndarray) -> np.ndarray:
    """Whether the table already has each row, (N,) bool; `fingerprint_N` is uint64."""
    known_N = np.zeros(len(fingerprint_N), dtype=bool)
    if known is None:
        return known_N
    bucket_N = bucket_of(user_id, buckets)
    present = [int(bucket) for bucket in np.unique(bucket_N) if int(bucket) in known]
    for bucket, known_K in zip(present, ray.get([known[bucket] for bucket in present]), strict=True):
        at = np.flatnonzero(bucket_N == bucket)
        known_N[at] = is_among(fingerprint_N[at], known_K)
    return known_N

"""Searching an index: the users nearest to vectors, in a fraction of a second, most of them right.

Legend: Q queries, D width, C candidates.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.numerics import unit
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.neighbours.layout import (
    IndexManifest,
    Shard,
    files_digest,
    manifest_path,
    read_manifest,
    read_manifests,
    shard_path,
)
from ray_ggsm.tables.neighbours.shard import NAMES, OpenShard

Gone = Callable[[pa.ChunkedArray], pa.BooleanArray]
"""Users -> which of them must not be returned."""
FOUND = pa.schema([("query", pa.int32()), *NAMES, ("score", pa.float32())])
"""Columns of a result: position of the query, user, moment of the user's vector, cosine."""
WIDER = 4
"""How many times as many rows and lists are looked at when those of a round are not enough users."""


class Neighbours:
    """The index of one version, opened; it never changes. Open the table again after a publish or a `forget`."""

    def __init__(self, manifest: IndexManifest, shards: Sequence[OpenShard], gone: Gone, held: ExitStack) -> None:
        self.manifest, self._shards, self._gone, self._held = manifest, shards, gone, held
        self._rows = sum(len(shard.names) for shard in shards)

    def nearest(self, vector_QD: np.ndarray, k: int = 10, *, without: Sequence[str] = ()) -> pa.Table:
        """The k users nearest to each query (FOUND), by query and best first; a user's best row counts.

        Users of equal score are in the order of their ids. Fewer than k are returned where the index has no more.

        Args:
            vector_QD: queries of any length, or one, (D,).
            k: number of users.
            without: users who are left out.

        Raises:
            InputError: the queries have another width than the index.
        """
        assert k >= 1, "seek at least one user"
        unit_QD = unit(np.atleast_2d(vector_QD)).astype(np.float32)
        width = max((shard.width for shard in self.manifest.shards), default=0)
        if self._shards and unit_QD.shape[1] != width:
            raise InputError(f"queries of width {unit_QD.shape[1]}, but the vectors of this index have {width}")
        left_out = pa.array(without, pa.string())
        found, waiting = [FOUND.empty_table()], np.arange(len(unit_QD))
        count, probes = k, self.manifest.settings.probes
        while len(waiting) and self._shards:
            if last := count >= self._rows:
                probes = self._rows  # all lists
            best, bound_Q = self._round(unit_QD, waiting, k, (count, probes), left_out)
            query_C = best["query"].to_numpy()
            least_Q = np.full(len(unit_QD), np.inf)
            np.minimum.at(least_Q, query_C, best["score"].to_numpy())
            enough_Q = (np.bincount(query_C, minlength=len(unit_QD)) >= k) & (least_Q >= bound_Q) | last
            found.append(best.filter(pa.array(enough_Q[query_C])))
            waiting, count, probes = waiting[~enough_Q[waiting]], count * WIDER, probes * WIDER
        return pa.concat_tables(found).sort_by([("query", "ascending"), *_BEST])

    def close(self) -> None:
        """Remove the copy of an index that lies in an object store."""
        self._held.close()

    def _round(
        self, unit_QD: np.ndarray, waiting: np.ndarray, k: int, width: tuple[int, int], left_out: pa.Array
    ) -> tuple[pa.Table, np.ndarray]:
        """The k best users of the queries that wait, and per query the greatest score that was left out, (Q,).

        `width` is how many rows and lists of each shard are looked at.
        """
        some, bound_Q = [FOUND.empty_table()], np.full(len(unit_QD), -np.inf)
        for shard in self._shards:
            near = shard.search(unit_QD[waiting], *width)
            bound_Q[waiting] = np.maximum(bound_Q[waiting], near.bound_Q)
            query = pa.array(waiting[near.query_C].astype(np.int32))
            some.append(pa.table([query, *near.names.columns, pa.array(near.score_C)], schema=FOUND))
        rows = pa.concat_tables(some)
        gone = pc.or_(self._gone(rows["user_id"]), pc.is_in(rows["user_id"], value_set=left_out))
        rows = rows.filter(pc.invert(gone)).sort_by([("query", "ascending"), *_BEST])
        return _first_rows(rows, k), bound_Q


_BEST = [("score", "descending"), ("user_id", "ascending")]


def _first_rows(rows: pa.Table, k: int) -> pa.Table:
    """The first row of each of a query's first k users; rows are in their order."""
    query_C = rows["query"].to_numpy().astype(np.int64)
    user_C = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    _, first_C = np.unique(query_C << 32 | user_C, return_index=True)
    first_C = np.sort(first_C)
    starts_C = np.searchsorted(query_C[first_C], query_C[first_C])
    return rows.take(pa.array(first_C[np.arange(len(first_C)) - starts_C < k]))


def find_index(location: str, version: int | str, files: Sequence[DataFile], instruction: str) -> IndexManifest:
    """The manifest of the index of the data files of a version, or of a tag, whose number or name is for people.

    Raises:
        InputError: there is no index of these files, or its manifest is damaged.
    """
    file = manifest_path(location, files_digest(instruction, files))
    if not storage.exists(file):
        raise InputError(_no_index(location, version, instruction))
    return read_manifest(file)


def open_index(location: str, manifest: IndexManifest, gone: Gone, directory: str | None = None) -> Neighbours:
    """Open an index of the table at `location`, which reads all of it once, to compare its digests.

    Args:
        location: the table's place.
        manifest: what the index is made of.
        gone: which users must not be returned.
        directory: where the index of a table in an object store is copied to, and found again; None: a temporary one.

    Raises:
        InputError: it is damaged, or faiss is not installed.
    """
    held = ExitStack()
    shards = [OpenShard.of(each, _local(location, each, directory, held)) for each in manifest.shards if each.rows]
    return Neighbours(manifest, shards, gone, held)


def _local(location: str, shard: Shard, directory: str | None, held: ExitStack) -> str:
    """The local directory of a shard; a copy if the table is in an object store."""
    place = shard_path(location, shard.name)
    if "://" not in location:
        return place
    if directory is None:
        return held.enter_context(storage.local_copy(place))
    copy = os.path.join(directory, shard.name)
    if not os.path.isdir(copy):
        os.makedirs(directory, exist_ok=True)
        with storage.local_copy(place) as fetched, tempfile.TemporaryDirectory(dir=directory) as waiting:
            storage.upload(fetched, waiting)
            try:
                os.rename(waiting, copy)
                os.mkdir(waiting)  # for the block to remove
            except OSError:
                if not os.path.isdir(copy):  # or else another process was faster, and its copy is the same
                    raise
    return copy


def _no_index(location: str, version: int | str, instruction: str) -> str:
    name = f"tag '{version}'" if isinstance(version, str) else f"version {version}"
    found = [str(each.version) for each in read_manifests(location) if each.instruction == instruction]
    there = f"there are indices of the versions {', '.join(found)}" if found else "there is none"
    return (
        f"{location}: no index of {name} for the instruction '{instruction}' ({there}); build one with "
        "jobs/tables.py index, or search exactly with jobs/lookalike.py"
    )


def nobody(users: pa.ChunkedArray) -> pa.BooleanArray:
    """Nobody is gone."""
    return pa.repeat(False, len(users))

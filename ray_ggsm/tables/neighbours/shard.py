"""One shard of an index: unit vectors in the lists of a faiss file, and an Arrow file that says whose they are.

The number of a vector is its row in the Arrow file. Both files are mapped into memory and hold no code. Lists are cells
around centres (k-means), so that near vectors share one.

Legend: N rows, D width.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.numerics import unit
from ray_ggsm.tables import scan
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.nearest import COLUMNS
from ray_ggsm.tables.neighbours.layout import SHARD, USERS, VECTORS, IndexFile, IndexSettings, Shard, shard_path
from ray_ggsm.tables.schema import SCHEMA, matrix

NAMES = pa.schema([SCHEMA.field("user_id"), SCHEMA.field("as_of")])
"""Columns of the Arrow file."""


VECTORS_PER_LIST = 64
"""Least mean number of vectors in a list, and the number for each that centres are learned from."""


def library() -> ModuleType:
    """faiss.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError("an index needs the package faiss-cpu; pip install 'ray-ggsm[neighbours]'") from error
    found: ModuleType = faiss
    return found


def shard_name(files: Sequence[DataFile], instruction: str, settings: IndexSettings) -> str:
    """What a shard of these data files is called: the same files and settings give the same name."""
    return digest(instruction, settings.precision, [[file.path, file.size] for file in files])


def build_shard(location: str, files: Sequence[DataFile], instruction: str, settings: IndexSettings) -> Shard:
    """Index some data files of the table at `location`, one after the other, unless it was done before.

    Raises:
        InputError: a file is missing or damaged, or vectors have several widths.
    """
    name = shard_name(files, instruction, settings)
    place = shard_path(location, name)
    if storage.exists(done := storage.join(place, SHARD)):
        known = Shard.model_validate_json(storage.read_bytes(done))
        if is_there(location, known):
            return known
    index, names = _trained(location, files, instruction, settings), [NAMES.empty_table()]
    shard = Shard(name=name, rows=0, width=0, files={})
    if index is not None:
        for rows, unit_ND in _vectors(location, files, instruction):
            if index.d != unit_ND.shape[1]:
                raise InputError(f"{location}: vectors of width {unit_ND.shape[1]} beside some of width {index.d}")
            index.add(unit_ND)
            names.append(rows)
        shard = _written(index, pa.concat_tables(names).combine_chunks(), place, shard)
    storage.write_text(done, shard.model_dump_json(indent=1))
    return shard


def is_there(location: str, shard: Shard) -> bool:
    """Whether a shard's files are there."""
    place = shard_path(location, shard.name)
    return all(storage.exists(storage.join(place, name)) for name in (*shard.files, SHARD))


def _vectors(location: str, files: Sequence[DataFile], instruction: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Per file that has some: whose rows of the instruction these are (NAMES), and their unit vectors, (N, D)."""
    for file in files:
        rows = scan.read_files([storage.join(location, file.path)], COLUMNS)
        rows = rows.filter(pc.equal(rows["instruction"], instruction))
        if len(rows):
            yield rows.select(NAMES.names), unit(matrix(rows["embedding"])).astype(np.float32)


def _trained(location: str, files: Sequence[DataFile], instruction: str, settings: IndexSettings) -> Any:
    """An empty faiss index whose centres are learned; None: there are no rows.

    A bucket's users are a draw by hash, so those of the first files stand for all.
    """
    rows, seen = sum(file.rows for file in files), 0
    sample: list[np.ndarray] = []
    lists = max(1, min(int(4 * rows**0.5), rows // VECTORS_PER_LIST))
    for _, unit_ND in _vectors(location, files, instruction):
        sample.append(unit_ND)
        seen += len(unit_ND)
        if seen >= lists * VECTORS_PER_LIST:
            break
    if not sample:
        return None
    faiss, width = library(), sample[0].shape[1]
    lists = max(1, min(lists, seen // VECTORS_PER_LIST))  # other instructions' rows were counted, too
    kind = {"f32": "Flat", "f16": "SQfp16", "i8": "SQ8"}[settings.precision]
    index = faiss.index_factory(width, f"IVF{lists},{kind}", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # of a shard with hardly any rows
    index.train(np.concatenate([part for part in sample if part.shape[1] == width]))
    return index


def _written(index: Any, names: pa.Table, place: str, shard: Shard) -> Shard:
    with tempfile.TemporaryDirectory() as directory:
        library().write_index(index, os.path.join(directory, VECTORS))
        with pa.OSFile(os.path.join(directory, USERS), "wb") as sink, pa.ipc.new_file(sink, names.schema) as writer:
            writer.write_table(names)
        files = {name: _described(os.path.join(directory, name)) for name in (VECTORS, USERS)}
        storage.upload(directory, place)
    return shard.model_copy(update={"rows": len(names), "width": index.d, "files": files})


def _described(file: str) -> IndexFile:
    with open(file, "rb") as content:
        return IndexFile(size=os.path.getsize(file), sha256=hashlib.file_digest(content, "sha256").hexdigest())


@dataclass(frozen=True)
class OpenShard:
    """A shard that can be searched."""

    index: Any
    """faiss's index."""
    names: pa.Table
    """Whose vectors they are (NAMES)."""

    @classmethod
    def of(cls, shard: Shard, directory: str) -> "OpenShard":
        """Open a shard whose files are in a local directory.

        Raises:
            InputError: a file is missing or not as it was written.
        """
        for name, expected in shard.files.items():
            file = os.path.join(directory, name)
            if not os.path.isfile(file) or _described(file) != expected:
                raise InputError(
                    f"{file}: this file of the index is missing or damaged; remove its directory, and build the index "
                    "again (jobs/tables.py index)"
                )
        faiss = library()
        index = faiss.read_index(os.path.join(directory, VECTORS), faiss.IO_FLAG_MMAP)
        with pa.memory_map(os.path.join(directory, USERS)) as source:
            return cls(index, pa.ipc.open_file(source).read_all())

    def search(self, unit_QD: np.ndarray, count: int, probes: int) -> "Candidates":
        """The best `count` rows, for each query, of those in the `probes` nearest lists."""
        how = library().SearchParametersIVF(nprobe=min(probes, self.index.nlist))
        score_QK, number_QK = self.index.search(unit_QD, min(count, self.index.ntotal), params=how)
        found_QK = number_QK >= 0
        cut_Q = found_QK[:, -1] & (number_QK.shape[1] < self.index.ntotal)
        return Candidates(
            self.names.take(pa.array(number_QK[found_QK])),
            np.nonzero(found_QK)[0],
            score_QK[found_QK],
            np.where(cut_Q, score_QK[:, -1], -np.inf),
        )


@dataclass(frozen=True)
class Candidates:
    """Rows of a shard that are near to some queries."""

    names: pa.Table
    """Whose they are (NAMES), C rows."""
    query_C: np.ndarray
    """The query of each."""
    score_C: np.ndarray
    """Its cosine, float32."""
    bound_Q: np.ndarray
    """No row that was left out for want of room has a greater cosine, float; -inf: there is none."""

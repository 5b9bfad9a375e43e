"""One shard of an index: a usearch graph of unit vectors, and an Arrow file that says whose they are.

The key of a vector is its row in the Arrow file. Both files are mapped into memory and hold no code.

Legend: N rows, D width.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
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
from ray_ggsm.tables.neighbours.layout import GRAPH, SHARD, USERS, IndexFile, IndexSettings, Shard, shard_path
from ray_ggsm.tables.schema import SCHEMA, matrix

NAMES = pa.schema([SCHEMA.field("user_id"), SCHEMA.field("as_of")])
"""Columns of the Arrow file."""


def library() -> ModuleType:
    """usearch.

    Raises:
        InputError: it is not installed.
    """
    try:
        import usearch.index
    except ImportError as error:
        raise InputError("an index needs the package usearch; pip install 'ray-ggsm[neighbours]'") from error
    found: ModuleType = usearch
    return found


def shard_name(files: Sequence[DataFile], instruction: str, settings: IndexSettings) -> str:
    """What a shard of these data files is called: the same files and settings give the same name."""
    how = [settings.connectivity, settings.expansion_add, settings.precision]
    return digest(instruction, how, [[file.path, file.size] for file in files])


def build_shard(location: str, files: Sequence[DataFile], instruction: str, settings: IndexSettings) -> Shard:
    """Index some data files of the table at `location`, one after the other, unless it was done before.

    Raises:
        InputError: a file is missing or damaged, or vectors have several widths.
    """
    name = shard_name(files, instruction, settings)
    place = shard_path(location, name)
    if storage.exists(done := storage.join(place, SHARD)):
        return Shard.model_validate_json(storage.read_bytes(done))
    graph, names = None, [NAMES.empty_table()]
    for file in files:
        rows = scan.read_files([storage.join(location, file.path)], COLUMNS)
        rows = rows.filter(pc.equal(rows["instruction"], instruction))
        if not len(rows):
            continue
        vector_ND = unit(matrix(rows["embedding"])).astype(np.float32)
        graph = graph or _empty(vector_ND.shape[1], settings)
        if graph.ndim != vector_ND.shape[1]:
            raise InputError(f"{file.path}: vectors of width {vector_ND.shape[1]} beside some of width {graph.ndim}")
        graph.add(np.arange(len(graph), len(graph) + len(vector_ND)), vector_ND)
        names.append(rows.select(NAMES.names))
    shard = Shard(name=name, rows=0, width=0, files={})
    if graph is not None:
        shard = _written(graph, pa.concat_tables(names).combine_chunks(), place, shard)
    storage.write_text(done, shard.model_dump_json(indent=1))
    return shard


def _empty(width: int, settings: IndexSettings) -> Any:
    return library().index.Index(
        ndim=width,
        metric="cos",
        dtype=settings.precision,
        connectivity=settings.connectivity,
        expansion_add=settings.expansion_add,
        enable_key_lookups=False,
    )


def _written(graph: Any, names: pa.Table, place: str, shard: Shard) -> Shard:
    with tempfile.TemporaryDirectory() as directory:
        graph.save(os.path.join(directory, GRAPH))
        with pa.OSFile(os.path.join(directory, USERS), "wb") as sink, pa.ipc.new_file(sink, names.schema) as writer:
            writer.write_table(names)
        files = {name: _described(os.path.join(directory, name)) for name in (GRAPH, USERS)}
        storage.upload(directory, place)
    return shard.model_copy(update={"rows": len(names), "width": graph.ndim, "files": files})


def _described(file: str) -> IndexFile:
    with open(file, "rb") as content:
        return IndexFile(size=os.path.getsize(file), sha256=hashlib.file_digest(content, "sha256").hexdigest())


@dataclass(frozen=True)
class OpenShard:
    """A shard that can be searched."""

    graph: Any
    """usearch's index."""
    names: pa.Table
    """Whose vectors they are (NAMES)."""

    @classmethod
    def of(cls, shard: Shard, directory: str, expansion: int) -> "OpenShard":
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
        graph = library().index.Index.restore(os.path.join(directory, GRAPH), view=True, enable_key_lookups=False)
        graph.expansion_search = expansion
        with pa.memory_map(os.path.join(directory, USERS)) as source:
            return cls(graph, pa.ipc.open_file(source).read_all())

    def search(self, unit_QD: np.ndarray, count: int) -> tuple[pa.Table, np.ndarray, np.ndarray]:
        """The nearest rows of some queries: whose they are (NAMES), the query of each, (C,), and its cosine, (C,)."""
        found = self.graph.search(unit_QD, min(count, len(self.graph)))
        key_QK, distance_QK = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        counts_Q = np.atleast_1d(getattr(found, "counts", key_QK.shape[1]))
        valid_QK = np.arange(key_QK.shape[1]) < counts_Q[:, None]
        query_C = np.nonzero(valid_QK)[0]
        rows = self.names.take(pa.array(key_QK[valid_QK].astype(np.int64)))
        return rows, query_C, (1 - distance_QK[valid_QK]).astype(np.float32)

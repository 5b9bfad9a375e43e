"""Building the index of a version, shard by shard, and measuring it.

Memory holds one shard and one bucket, in each process that builds (`ray_ggsm.on_ray.neighbours`: tasks of a cluster). A
shard that is finished is not built again: after an interruption, or for a new version, only what is missing or has
changed is work.

Legend: Q queries, D width.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.log import say
from ray_ggsm.tables import scan
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.neighbours.exact import exact_nearest
from ray_ggsm.tables.neighbours.layout import (
    IndexManifest,
    IndexSettings,
    Quality,
    Shard,
    files_digest,
    manifest_path,
    read_manifest,
)
from ray_ggsm.tables.neighbours.reader import Neighbours, nobody, open_index
from ray_ggsm.tables.neighbours.shard import build_shard, is_there, library
from ray_ggsm.tables.reader import EmbeddingTable, Version
from ray_ggsm.tables.schema import matrix

QUERIES, NEAREST, SAMPLED_FILES = 200, 10, 20
"""Users that the index is measured with, nearest users of each, and the files that they are taken from."""
Parts = Sequence[Sequence[DataFile]]
BuildShards = Callable[[str, Parts, str, IndexSettings], Iterator[Shard]]
"""Location, the data files of each shard, instruction, settings -> the shards, in the same order."""


def one_by_one(location: str, parts: Parts, instruction: str, settings: IndexSettings) -> Iterator[Shard]:
    """Build the shards here, one after the other."""
    return (build_shard(location, part, instruction, settings) for part in parts)


def build_index(
    table: EmbeddingTable,
    version: Version = None,
    instruction: str = "default",
    settings: IndexSettings | None = None,
    build_shards: BuildShards = one_by_one,
) -> IndexManifest:
    """Build the index of a version, unless it is there, and return its manifest.

    Raises:
        InputError: faiss is not installed, no such version, a file is missing or damaged, or users were forgotten
            since the version.
    """
    settings, name = settings or IndexSettings(), f"faiss {library().__version__}"
    if not isinstance(version, str) and not table.honours_list(version):
        raise InputError(
            f"{table.location}: users were forgotten since version {table.number_of(version)}, and an index would have "
            "them; build that of the newest version"
        )
    files = table.data_files(version)
    digest = files_digest(instruction, files)
    if storage.exists(file := manifest_path(table.location, digest)):
        known = read_manifest(file)
        if known.settings == settings and all(is_there(table.location, shard) for shard in known.shards):
            return known
    shards = []
    for shard in build_shards(table.location, [*_parts(files, settings.rows_per_shard)], instruction, settings):
        shards.append(shard)
        say(f"index: {sum(shard.rows for shard in shards):,} rows in {len(shards)} shards", rows=shards[-1].rows)
    manifest = IndexManifest(
        version=table.number_of(version),
        files=digest,
        instruction=instruction,
        library=name,
        settings=settings,
        shards=tuple(shards),
    )
    index = open_index(table.location, manifest, nobody)
    manifest = manifest.model_copy(update={"quality": measure(index, table.location, files, instruction)})
    index.close()
    storage.write_text(file, manifest.model_dump_json(indent=1))
    return manifest


def measure(index: Neighbours, location: str, files: Sequence[DataFile], instruction: str) -> Quality | None:
    """Search for the nearest of some users of the index, and compare with exact search; None: there are too few."""
    names, query_QD = _queries(location, files, instruction)
    if index.manifest.rows <= NEAREST or not len(names):
        return None
    started = time.perf_counter()
    found = [
        index.nearest(query_D, NEAREST, without=[name])["user_id"]
        for name, query_D in zip(names, query_QD, strict=True)
    ]
    rate = len(names) / (time.perf_counter() - started)
    started = time.perf_counter()
    paths = [storage.join(location, file.path) for file in files]
    right = exact_nearest(paths, query_QD, NEAREST, instruction, without=names)
    exact_rate = len(names) / (time.perf_counter() - started)
    shares = [len({*best} & {*users.to_pylist()}) / max(len(best), 1) for best, users in zip(right, found, strict=True)]
    return Quality(
        queries=len(names),
        k=NEAREST,
        recall=float(np.mean(shares)),
        queries_per_second=rate,
        exact_queries_per_second=exact_rate,
    )


def _parts(files: Sequence[DataFile], rows: int) -> Iterator[list[DataFile]]:
    """Files in their order, in parts of at least so many rows; all files of a bucket are in one part."""
    part: list[DataFile] = []
    for file in files:
        if part and part[-1].bucket != file.bucket and sum(each.rows for each in part) >= rows:
            yield part
            part = []
        part.append(file)
    if part:
        yield part


def _queries(location: str, files: Sequence[DataFile], instruction: str) -> tuple[list[str], np.ndarray]:
    """Some users of some files, always the same, with their vectors (Q, D)."""
    rng = np.random.default_rng(0)
    chosen: list[int] = rng.permutation(len(files))[:SAMPLED_FILES].tolist()
    names: list[str] = []
    some = [np.zeros((0, 0), np.float32)]
    for position in chosen:
        file = storage.join(location, files[position].path)
        rows = scan.read_files([file], ["user_id", "instruction", "embedding"])
        rows = rows.filter(pc.equal(rows["instruction"], instruction))
        taken = rng.permutation(len(rows))[: -(-QUERIES // len(chosen))]
        rows = rows.take(pa.array(np.sort(taken)))
        if len(rows):
            names += rows["user_id"].to_pylist()
            some.append(matrix(rows["embedding"]))
    return names, np.concatenate(some[1:]) if len(some) > 1 else some[0]

"""Fills the buckets of a new version, one Ray task each."""

from collections import defaultdict
from collections.abc import Sequence

import ray

from ray_ggsm.building.buckets import Filled, Part, StagedVersion, fill_bucket, parts_of_buckets
from ray_ggsm.building.build import Build
from ray_ggsm.data.chunks import Chunk
from ray_ggsm.tables import gates
from ray_ggsm.tables.files import DataFile, TableConfig
from ray_ggsm.tables.gates import FileCheck
from ray_ggsm.tables.reader import EmbeddingTable


def fill_buckets(
    build: Build,
    chunks: Sequence[Chunk],
    table: str,
    config: TableConfig,
    previous: EmbeddingTable | None,
    *,
    one_row_each: bool,
) -> StagedVersion:
    """Write the data files of a new version of the table at a location; `previous` is the version it goes on from.

    Raises:
        InputError: with `one_row_each`, a user stands in the input more than once.
    """
    parts = parts_of_buckets([build.staged(chunk.number) for chunk in chunks])
    before: dict[int, list[DataFile]] = defaultdict(list)
    for file in previous.data_files() if previous else ():
        before[file.bucket].append(file)
    tasks = [
        _fill.remote(build, k, parts[k], before[k] if previous else None, table, config, one_row_each)
        for k in sorted({*parts, *before})
    ]
    filled, total = [], FileCheck()
    while tasks:  # anchors are merged as they come, so that only the smallest stay in memory
        (done,), tasks = ray.wait(tasks)
        bucket, check = ray.get(done)
        filled.append(bucket)
        total = gates.merge([total, check])
    return StagedVersion(tuple(sorted(filled, key=lambda f: f.bucket)), total)


@ray.remote(num_cpus=1)
def _fill(
    build: Build,
    bucket: int,
    parts: list[Part],
    before: list[DataFile] | None,
    table: str,
    config: TableConfig,
    one_row_each: bool,
) -> tuple[Filled, FileCheck]:
    return fill_bucket(build, bucket, parts, before, table, config, one_row_each=one_row_each)

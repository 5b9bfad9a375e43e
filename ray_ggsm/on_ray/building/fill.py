"""Fills the buckets of a new version, one Ray task each."""

from collections import defaultdict
from collections.abc import Sequence

import ray

from ray_ggsm.building.buckets import Bucket, Filled, StagedVersion, fill_bucket, parts_of_buckets
from ray_ggsm.building.build import Build
from ray_ggsm.data.chunks import Chunk
from ray_ggsm.tables import checks
from ray_ggsm.tables.checks import FileCheck
from ray_ggsm.tables.files import DataFile, DataFileConfig
from ray_ggsm.tables.reader import EmbeddingTable


def fill_buckets(
    build: Build,
    chunks: Sequence[Chunk],
    table: str,
    config: DataFileConfig,
    previous: EmbeddingTable | None,
    *,
    one_row_each: bool,
) -> StagedVersion:
    """Write the data files of a new version of the table at location `table`, which continues from `previous`.

    Raises:
        InputError: with `one_row_each`, a user has several rows of one instruction in the input.
    """
    parts = parts_of_buckets([build.staged(chunk.number) for chunk in chunks])
    files: dict[int, list[DataFile]] = defaultdict(list)
    for file in previous.data_files() if previous else ():
        files[file.bucket].append(file)
    buckets = [Bucket(k, parts[k], files[k] if previous else None) for k in sorted({*parts, *files})]
    tasks = [_fill.remote(build, bucket, table, config, one_row_each) for bucket in buckets]
    filled, total = [], FileCheck()
    while tasks:  # anchors are merged as they come, so that only the smallest stay in memory
        (finished,), tasks = ray.wait(tasks)
        bucket, check = ray.get(finished)
        filled.append(bucket)
        total = checks.merge([total, check])
    return StagedVersion(tuple(sorted(filled, key=lambda f: f.bucket)), total)


@ray.remote(num_cpus=1)
def _fill(
    build: Build, bucket: Bucket, table: str, config: DataFileConfig, one_row_each: bool
) -> tuple[Filled, FileCheck]:
    return fill_bucket(build, bucket, table, config, one_row_each=one_row_each)

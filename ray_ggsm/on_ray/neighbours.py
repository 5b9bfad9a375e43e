"""Building an index of nearest users on a cluster: each shard is a task (`ray_ggsm.tables.neighbours`)."""

from collections.abc import Iterator, Sequence

import ray

from ray_ggsm.experiment import RayConfig
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.neighbours.build import build_index
from ray_ggsm.tables.neighbours.layout import IndexManifest, IndexSettings, Shard
from ray_ggsm.tables.neighbours.shard import build_shard
from ray_ggsm.tables.reader import EmbeddingTable, Version


def build_on_cluster(
    table: EmbeddingTable,
    version: Version = None,
    instruction: str = "default",
    settings: IndexSettings | None = None,
) -> IndexManifest:
    """As `build_index`, with the shards as tasks of the cluster; the driver measures the whole.

    Raises:
        InputError: as `build_index`.
        NotNow: the cluster has no room.
    """
    with started(RayConfig()):
        return build_index(table, version, instruction, settings, _as_tasks)


def _as_tasks(
    location: str, parts: Sequence[Sequence[DataFile]], instruction: str, settings: IndexSettings
) -> Iterator[Shard]:
    """The shards, in the order of their parts."""
    build = ray.remote(num_cpus=1)(build_shard)
    for task in [build.remote(location, part, instruction, settings) for part in parts]:
        yield ray.get(task)

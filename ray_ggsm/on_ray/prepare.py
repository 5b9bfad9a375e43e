"""The prepare stage: event tables -> user rows, features and labels, one Ray task per shard of users."""

import ray

from ray_ggsm.data import prepare as engine
from ray_ggsm.data.aggregates import Fitted
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.summary import ShardCounts
from ray_ggsm.experiment import Experiment, stages
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.stages import timed


def prepare(experiment: Experiment) -> str:
    """Write user rows and labels; returns the stage's location. A finished stage is reused."""
    stage = stages(experiment)["prepare"]
    if stage.result():
        return stage.location
    engine.check(experiment.data)
    with connected(experiment), timed(stage) as results:
        shards = experiment.data.shards
        fitted = ray.get(_fit.remote(experiment.data, shards))
        counts = ray.get(
            [_write_shard.remote(experiment.data, fitted, k, shards, stage.location) for k in range(shards)]
        )
        summary = engine.write_summary(experiment.data, fitted, counts, stage.location)
        results["summary"] = summary.to_json()
        print(f"prepare: rows {_listed(summary.rows)}; rejected {_listed(summary.dead_letters)}", flush=True)
    return stage.location


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


@ray.remote(num_cpus=2)
def _fit(config: DataConfig, shards: int) -> Fitted:
    return engine.fit(config, shards)


@ray.remote(num_cpus=2)
def _write_shard(config: DataConfig, fitted: Fitted, shard: int, shards: int, location: str) -> ShardCounts:
    return engine.write_shard(config, fitted, shard, shards, location)

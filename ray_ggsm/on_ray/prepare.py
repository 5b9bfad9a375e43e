"""The prepare job: event tables -> user rows, features and labels, one Ray task per shard of users."""

from collections.abc import Mapping

import ray

from ray_ggsm.data import prepare as shards
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.stage_results import PrepareResult
from ray_ggsm.stages import Pipeline, timed


def prepare(pipeline: Pipeline) -> str:
    """Write user rows and labels; returns the stage's location. A finished stage is reused."""
    stage, config = pipeline.prepare, pipeline.experiment.data
    if stage.result():
        return stage.location
    shards.check(config)
    with connected(pipeline.experiment), timed(stage) as running:
        # functions of `data`, because a task loads the module of its function, and this one loads torch
        fit, write_shard = (ray.remote(num_cpus=2)(step) for step in (shards.fit, shards.write_shard))
        fitted = ray.get(fit.remote(config, config.shards))
        tasks = [write_shard.remote(config, fitted, k, config.shards, stage.location) for k in range(config.shards)]
        summary = shards.write_summary(config, fitted, ray.get(tasks), stage.location)
        print(f"prepare: rows {_listed(summary.rows)}; rejected {_listed(summary.dead_letters)}", flush=True)
        running.result = PrepareResult(summary=summary)
    return stage.location


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"

"""The encoder actors: their resources, how many there are, and their device."""

import torch
from ray.data import ActorPoolStrategy

from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.on_ray.cluster.resources import Need, require

WITHOUT_LIMIT = -1


def actor_resources(config: RayConfig) -> dict[str, float]:
    """The resources of one encoder actor, as arguments of `map_batches` and of `options` of a task."""
    if config.gpu:
        return {"num_gpus": config.gpus_per_embed_worker}
    return {"num_cpus": config.cpus_per_embed_worker}


def actor_options(config: RayConfig) -> dict[str, float]:
    """The resources of one encoder actor, and how often it is started anew, as arguments of `map_batches`."""
    if config.max_restarts == WITHOUT_LIMIT:  # as Ray Data does by itself
        return actor_resources(config)
    return {**actor_resources(config), "max_restarts": config.max_restarts}


def actor_pool(config: RayConfig, at_most: int) -> ActorPoolStrategy:
    """The encoder actors of a step that has work for `at_most` of them; returns when the cluster has room for them.

    Raises:
        InputError: the cluster has no room, and never grows.
        NotNow: the cluster has no room, and did not grow in time.
    """
    size = config.pool.at_most(at_most)
    require(encoders(config, size.min), config)
    return ActorPoolStrategy(min_size=size.min, max_size=size.max)


def encoders(config: RayConfig, count: int = 1) -> Need:
    """So many encoder actors, and a task that reads or writes beside them."""
    if config.gpu:
        keys, gpus = "ray.gpu, ray.gpus_per_embed_worker, ray.embed_workers", config.gpus_per_embed_worker
        return Need(keys, "encoder actor", {"GPU": gpus}, count, beside=1)
    keys = "ray.cpus_per_embed_worker, ray.embed_workers"
    return Need(keys, "encoder actor", {"CPU": config.cpus_per_embed_worker}, count, beside=1)


def training(config: RayConfig) -> Need:
    """The training workers."""
    gpu = {"GPU": 1} if config.gpu else {}
    keys = "ray.cpus_per_train_worker, ray.train_workers" + ", ray.gpu" * config.gpu
    return Need(keys, "training worker", {"CPU": config.cpus_per_train_worker, **gpu}, config.train_workers)


def device_of(config: RayConfig) -> torch.device:
    """The actor's device; on CPU this also sets torch's number of threads to the actor's number of CPUs."""
    if config.gpu:
        return torch.device("cuda")
    return use_cpu(config.cpus_per_embed_worker)

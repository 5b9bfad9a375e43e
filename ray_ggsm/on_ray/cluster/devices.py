"""The resources of an encoder actor, and its device."""

import torch

from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.cpu import use_cpu


def actor_resources(config: RayConfig) -> dict[str, float]:
    """The resources of one encoder actor, as arguments of `map_batches`."""
    if config.gpu:
        return {"num_gpus": 1}
    return {"num_cpus": config.cpus_per_embed_worker}


def device_of(config: RayConfig) -> torch.device:
    """The actor's device; on CPU this also sets torch's number of threads to the actor's number of CPUs."""
    if config.gpu:
        return torch.device("cuda")
    return use_cpu(config.cpus_per_embed_worker)

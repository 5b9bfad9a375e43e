"""Resources of encoder actors, and the device inside one."""

from typing import Any

import torch

from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.cpu import use_cpu


def actor_resources(config: RayConfig) -> dict[str, Any]:
    """Arguments for `map_batches`."""
    if config.gpu:
        return {"num_gpus": 1}
    return {"num_cpus": config.cpus_per_embed_worker}


def device_of(config: RayConfig) -> torch.device:
    """The actor's device; on CPU it also takes as many threads as it has CPUs."""
    if config.gpu:
        return torch.device("cuda")
    return use_cpu(config.cpus_per_embed_worker)

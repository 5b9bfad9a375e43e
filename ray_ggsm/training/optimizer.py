"""AdamW with linear warm-up and cosine decay, for all trained parameters of the encoder."""

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import nn

from ray_ggsm.config import Config


class OptimizerConfig(Config):
    """AdamW and its learning-rate schedule."""

    learning_rate: float = Field(2e-4, gt=0)
    """Peak of the LoRA weights' learning rate."""
    new_modules_scale: float = Field(1.0, gt=0)
    """Learning rate of adapters, tags and number embeddings, as a multiple of `learning_rate`: they start untrained."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled weight decay."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest global norm of the gradients, which are scaled down to it."""


def make_optimizer(trained: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with two groups of parameters, by name: the backbone's weights, and the new modules."""
    lora = [p for name, p in trained.items() if name.startswith("backbone.")]
    new = [p for name, p in trained.items() if not name.startswith("backbone.")]
    groups = [{"params": lora, "scale": 1.0}, {"params": new, "scale": config.new_modules_scale}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Set the learning rate of `step` (0-based) and return it; no state is kept from step to step."""
    warmup = config.warmup_share * total_steps
    if step < warmup:
        share = (step + 1) / (warmup + 1)
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1)))
    rate = config.learning_rate * share
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate

"""AdamW with linear warm-up and cosine decay, over everything the encoder trains."""

import math

import torch
from pydantic import Field

from ray_ggsm.config import Config
from ray_ggsm.model.encoder import UserEncoder


class OptimizerConfig(Config):
    """Optimiser and learning-rate schedule."""

    learning_rate: float = Field(2e-4, gt=0)
    """Peak, for the LoRA weights."""
    new_modules_scale: float = Field(1.0, gt=0)
    """The adapters, tags and number embeddings start from nothing: their rate is this multiple of `learning_rate`."""
    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises linearly."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's decoupled decay."""
    clip_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this global norm."""


def make_optimizer(encoder: UserEncoder, config: OptimizerConfig) -> torch.optim.AdamW:
    """Two groups: the backbone's LoRA weights, and all that is new."""
    lora = [p for name, p in encoder.trainable().items() if name.startswith("backbone.")]
    new = [p for name, p in encoder.trainable().items() if not name.startswith("backbone.")]
    groups = [{"params": lora, "scale": 1.0}, {"params": new, "scale": config.new_modules_scale}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Set the rate of `step` (0-based) and return it: a function of the step, so there is no schedule state to keep."""
    warmup = config.warmup_share * total_steps
    if step < warmup:
        share = (step + 1) / (warmup + 1)
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1)))
    rate = config.learning_rate * share
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate

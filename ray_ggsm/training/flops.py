"""Floating-point operations of a training step, and the rate of the device's matrix products.

Counted are the backbone's linear layers and attention products, once forward and once backward; LoRA weights get a
gradient, frozen weights do not. A next-token loss counts its logits itself (next_token.py). Not counted are the forward
passes that gradient caching repeats, adapters and norms.
"""

import time
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from ray_ggsm.model.encoder import UserEncoder


def forward_flops(encoder: UserEncoder, length_b: np.ndarray) -> float:
    """Operations of a forward pass over sequences of these lengths (tokens)."""
    config = encoder.backbone.config.get_text_config()
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    pairs = float((length_b.astype(np.float64) ** 2).sum())
    return 2 * sum(_weights(encoder)) * float(length_b.sum()) + 4 * width * config.num_hidden_layers * pairs


def step_flops(encoder: UserEncoder, length_b: np.ndarray) -> float:
    """Operations of forward and backward passes over sequences of these lengths (tokens)."""
    _, frozen = _weights(encoder)
    return 3 * forward_flops(encoder, length_b) - 2 * frozen * float(length_b.sum())


def _weights(encoder: UserEncoder) -> tuple[int, int]:
    """Numbers of trained and of frozen weights in the backbone's linear layers."""
    linears = [m.weight for m in encoder.backbone.modules() if isinstance(m, nn.Linear)]
    trained = sum(weight.numel() for weight in linears if weight.requires_grad)
    return trained, sum(weight.numel() for weight in linears) - trained


@lru_cache
def peak_flops(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations per second in a product of two square matrices on this device, best of three; once per process."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        float((a @ b)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best

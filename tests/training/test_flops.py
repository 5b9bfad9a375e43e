"""Counted operations against those that torch counts."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from ray_ggsm.training.flops import forward_flops, step_flops


@pytest.fixture
def encoder() -> Any:
    """A decoder whose heads together are wider than its states."""
    config = LlamaConfig(
        vocab_size=19, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, attn_implementation="eager",
    )  # fmt: skip
    return SimpleNamespace(backbone=LlamaModel(config))


def test_a_forward_pass(encoder: Any) -> None:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder.backbone(inputs_embeds=torch.randn(2, 50, 24))
    counted = forward_flops(encoder, np.array([50, 50]))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)  # torch also counts the rotary angles


def test_a_step_computes_no_gradients_of_frozen_weights(encoder: Any) -> None:
    length_b = np.array([3, 9])
    assert step_flops(encoder, length_b) == 3 * forward_flops(encoder, length_b)
    frozen = encoder.backbone.layers[0].mlp.up_proj.weight.requires_grad_(False)
    assert step_flops(encoder, length_b) == 3 * forward_flops(encoder, length_b) - 2 * frozen.numel() * 12

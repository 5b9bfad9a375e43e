"""The attention bias against a reference written from the paper's eq. 4, element by element."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_ggsm.masks import attention_bias


def reference(weight_BLL: np.ndarray, valid_BL: np.ndarray) -> np.ndarray:
    B, L, _ = weight_BLL.shape
    bias = np.zeros((B, L, L))
    for b in range(B):
        for i in range(L):
            for j in range(L):
                if not valid_BL[b, i]:
                    bias[b, i, j] = 0 if i == j else -math.inf
                elif not valid_BL[b, j]:
                    bias[b, i, j] = -math.inf
                elif j > i:
                    w = weight_BLL[b, i, j]
                    bias[b, i, j] = math.log(w) if w > 0 else -math.inf
    return bias


@given(B=st.integers(1, 3), L=st.integers(1, 7), per_key=st.booleans(), seed=st.integers(0, 10**6))
def test_equals_reference(B: int, L: int, per_key: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    valid_BL = np.arange(L) < rng.integers(1, L + 1, size=B)[:, None]
    weight = rng.choice([0.0, 0.2, 0.5, 1.0, 1e-12], size=(B, L) if per_key else (B, L, L))
    full = np.broadcast_to(weight[:, None, :], (B, L, L)) if per_key else weight
    bias = attention_bias(torch.tensor(weight), torch.tensor(valid_BL), torch.float64)
    assert bias.shape == (B, 1, L, L)
    np.testing.assert_allclose(bias[:, 0].numpy(), reference(full, valid_BL), rtol=1e-6)


def test_learned_weights_get_finite_gradients_even_where_they_are_zero() -> None:
    weight = torch.tensor([[[0.0, 0.0, 0.3]] * 3], requires_grad=True)
    bias = attention_bias(weight, torch.ones(1, 3, dtype=torch.bool), torch.float32)
    torch.softmax(bias, dim=-1).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
    assert weight.grad.abs().sum() > 0


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="weight: expected"):
        attention_bias(torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.float32)

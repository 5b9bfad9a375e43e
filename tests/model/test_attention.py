"""Attention backends against a float64 reference with loops, on four decoder families, and the refusal of the rest."""

import copy
import math

import pytest
import torch
from transformers import MambaConfig, MambaModel, T5Config, T5Model

from ray_ggsm.config import InputError
from ray_ggsm.model.attention import Visibility, attend, open_backbone
from tests.helpers.families import FAMILIES

B, H, G, L, d = 2, 6, 2, 11, 7  # rows, query heads, key heads, tokens, head width


def case(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and validity."""
    generator = torch.Generator().manual_seed(7)
    valid = torch.ones(B, L, dtype=torch.bool)
    if kind == "padded":
        valid[1, 8:] = False
    weight = {
        "causal": torch.zeros(B, L),
        "open": torch.ones(B, L),
        "per_pair": torch.rand(B, L, L, generator=generator),
    }.get(kind, torch.rand(B, L, generator=generator))
    if kind == "padded":
        weight[:, 3] = 0
    return weight, valid


def reference(q, k, v, weight, valid, window: int | None) -> torch.Tensor:
    q, k, v, weight = (x.double() for x in (q, k, v, weight))
    out = torch.zeros(B, L, H, d, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for i in range(L):
                total, mixed = 0.0, torch.zeros(d, dtype=torch.float64)
                for j in range(L):
                    w = 1.0 if j <= i else float(weight[b, j] if weight.dim() == 2 else weight[b, i, j])
                    if not valid[b, j] or (window is not None and abs(i - j) >= window):
                        w = 0.0
                    e = w * math.exp(float(q[b, h, i] @ k[b, g, j]) * 0.3)
                    total, mixed = total + e, mixed + e * v[b, g, j]
                out[b, i, h] = mixed / total if total else mixed
    return out


@pytest.mark.parametrize("backend", ["sdpa", "eager", "flex"])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("kind", ["causal", "open", "soft", "padded", "per_pair"])
def test_backends_equal_the_reference(backend, window, kind) -> None:
    torch.manual_seed(3)
    q, k, v = torch.randn(B, H, L, d), torch.randn(B, G, L, d), torch.randn(B, G, L, d)
    weight, valid = case(kind)
    visibility = Visibility(weight, valid, torch.float32, backend)
    module = torch.nn.Module()
    with torch.no_grad():
        out, _ = attend(module, q, k, v, None, scaling=0.3, sliding_window=window, visibility=visibility)
    torch.testing.assert_close(
        out.double()[valid], reference(q, k, v, weight, valid, window)[valid], atol=1e-5, rtol=1e-5
    )
    assert out.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_equals_the_untouched_model_and_open_reaches_the_future(family) -> None:
    cls, config = FAMILIES[family]
    torch.manual_seed(0)
    theirs = cls(copy.deepcopy(config)).eval()
    torch.manual_seed(0)
    ours = cls(copy.deepcopy(config)).eval()
    open_backbone(ours, family)
    inputs, valid = torch.randn(2, 9, 24), torch.ones(2, 9, dtype=torch.bool)
    valid[1, 6:] = False
    with torch.no_grad():
        expected = theirs(inputs_embeds=inputs, attention_mask=valid.long()).last_hidden_state
        for backend in ("sdpa", "eager", "flex"):
            visibility = Visibility(torch.zeros(2, 9), valid, torch.float32, backend)
            states = ours(inputs_embeds=inputs, visibility=visibility).last_hidden_state
            torch.testing.assert_close(states[valid], expected[valid], atol=2e-5, rtol=1e-4)
        opened = [
            ours(
                inputs_embeds=inputs, visibility=Visibility(torch.ones(2, 9), valid, torch.float32, b)
            ).last_hidden_state
            for b in ("sdpa", "eager", "flex")
        ]
    assert not torch.allclose(opened[0][0, 0], expected[0, 0], atol=1e-3)
    for other in opened[1:]:
        torch.testing.assert_close(other[valid], opened[0][valid], atol=2e-5, rtol=1e-4)


def test_a_model_that_cannot_be_opened_is_refused() -> None:
    config = MambaConfig(vocab_size=19, hidden_size=24, num_hidden_layers=2, state_size=4)
    with pytest.raises(InputError, match="attention cannot be opened"):
        open_backbone(MambaModel(config), "mamba")


def test_an_encoder_with_a_decoder_is_refused() -> None:
    config = T5Config(vocab_size=19, d_model=24, d_kv=6, d_ff=20, num_layers=2, num_heads=4, decoder_start_token_id=0)
    with pytest.raises(InputError, match=r"model 't5' \(T5Model\): .* choose a decoder-only model"):
        open_backbone(T5Model(config), "t5")


def test_fast_paths_are_taken_only_where_they_are_right() -> None:
    for kind, plain in {"causal": "causal", "open": "open", "soft": None, "padded": None, "per_pair": None}.items():
        assert Visibility(*case(kind), torch.float32, "sdpa").plain == plain
    learned = torch.ones(B, L, requires_grad=True)
    assert Visibility(learned, case("open")[1], torch.float32, "sdpa").plain is None

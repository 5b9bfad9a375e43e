"""Hybrid (c): what the global query sees, and what it adds to the user vector."""

import pytest
import torch

from ray_ggsm.masks.fixed import HybridGQConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.global_query import GlobalQuery
from ray_ggsm.model.saved import EncoderBundle
from tests.helpers.encoders import lookup


def collator(bundle: EncoderBundle) -> Collator:
    return Collator(bundle.encoder.template, bundle.tokenizer, lookup)


def test_the_global_query_sees_the_whole_history_and_joins_the_user_vector(make_encoder, make_rows) -> None:
    bundle, rows = make_encoder(HybridGQConfig(recipe="hybrid_gq", joins="state")), make_rows()
    template, batch = bundle.encoder.template, collator(bundle).users(rows)
    layout = batch.layout
    is_global = layout.id_BL == template.tags.index("<GLOBAL>")
    assert (is_global.sum(dim=1) == 1).all()
    assert torch.equal(is_global.int().argmax(dim=1), layout.global_B)
    positions = torch.arange(layout.id_BL.shape[1])
    assert (positions[None] < layout.global_B[:, None])[layout.tokens.history_BL].all()  # all history is in its past
    states = torch.randn(len(rows), layout.id_BL.shape[1], bundle.encoder.width)
    index = torch.arange(len(rows))
    expected = (states[index, layout.last_B] + states[index, layout.global_B]) / 2
    torch.testing.assert_close(bundle.encoder.pool(states, batch), expected)


@pytest.mark.parametrize("pooling", ["user", "mean"])
def test_the_global_querys_attention_weighs_the_blocks_of_the_history(pooling, make_encoder, make_rows) -> None:
    """Against loops over tokens, with the last layer's attention as eager attention shows it."""
    bundle, rows = make_encoder(HybridGQConfig(recipe="hybrid_gq"), pooling=pooling), make_rows()
    encoder, batch = bundle.encoder.eval(), collator(bundle).users(rows)
    tokens, shares = batch.layout.tokens, {}
    weight = bundle.recipe.future_weight(tokens, 0)
    names = encoder.template.slot_names
    with torch.no_grad():
        found = encoder(batch, weight)
        states = encoder.hidden(
            encoder.inputs(batch), tokens, weight, watch=lambda layer, share, bias: shares.update({layer: share})
        )
    last = shares[max(shares)].double().mean(dim=1)
    for b in range(len(rows)):
        length, g = int(tokens.length_B()[b]), int(batch.layout.global_B[b])
        attention: dict[str, float] = {}
        members: dict[str, list[torch.Tensor]] = {}
        for j in range(g):
            block = names[int(tokens.slot_BL[b, j])].strip("</>").split("[")[0]
            attention[block] = attention.get(block, 0.0) + last[b, g, j].item()
            members.setdefault(block, []).append(states[b, j].double())
        assert set(members) == {"bill", "app", "tabular"}
        context = sum(attention[k] * torch.stack(members[k]).mean(dim=0) for k in members) / sum(attention.values())
        pooled_D = (states[b, length - 1] if pooling == "user" else states[b, :length].mean(dim=0)).double()
        torch.testing.assert_close(found[b].double(), (pooled_D + context) / 2, atol=1e-5, rtol=1e-4)
    encoder(batch, weight).square().sum().backward()
    assert encoder.tags.weight.grad[encoder.template.tags.index("<GLOBAL>")].abs().sum() > 0


def test_attention_and_blocks_are_computed_in_float32(make_encoder, make_rows) -> None:
    """Under autocast products would be rounded to bfloat16, and what blocks have in common is subtracted later."""
    bundle, rows = make_encoder(HybridGQConfig(recipe="hybrid_gq"), dtype="bfloat16"), make_rows(users=13)
    layout, encoder = collator(bundle).users(rows).layout, bundle.encoder
    L, found = layout.id_BL.shape[1], []
    query_BHLd, key_BGLd, states_BLD = torch.randn(13, 4, L, 6), torch.randn(13, 2, L, 6), torch.randn(13, L, 24)
    for enabled in (True, False):
        asked = GlobalQuery(layout.global_B)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            asked.take(query_BHLd, key_BGLd, layout.tokens.valid_BL, None)
            found.append((asked.share_BL, asked.blocks(states_BLD, layout.tokens, encoder.template.block_S)))
    for coarse, exact in zip(*found, strict=True):
        assert coarse.dtype == torch.float32
        assert torch.equal(coarse, exact)

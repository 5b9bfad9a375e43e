"""Attention diagnostics against transformers' own attention output and loops in float64, and what must not matter."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.evaluation.attention import (
    AttentionMeans,
    AttentionTally,
    attention_of,
    measure,
    opened_and_closed,
    terminal_table,
)
from ray_ggsm.masks import RecipeConfig
from ray_ggsm.masks.fixed import BidirectionalConfig, CausalConfig, PrefixConfig
from ray_ggsm.masks.hybrid_mlp import START, HybridMLPConfig
from ray_ggsm.model.attention import Visibility, attend, open_backbone
from ray_ggsm.model.batch import Collator
from tests.helpers.encoders import encoder_on, lookup
from tests.helpers.families import FAMILIES
from tests.helpers.rows import user_rows

LENGTHS = [9, 6]
VALID = torch.arange(9) < torch.tensor(LENGTHS)[:, None]


def by_hand(share_LL: np.ndarray, visible_LL: np.ndarray, tokens: int) -> list[float]:
    """Future share, distance, entropy and relative entropy of one row and head."""
    future, distance, entropy, relative = [], [], [], []
    for i in range(tokens):
        share = share_LL[i].tolist()
        future.append(math.fsum(share[i + 1 :]))
        distance.append(math.fsum(p * abs(i - j) for j, p in enumerate(share)))
        entropy.append(-math.fsum(p * math.log(p) for p in share if p > 0))
        if (visible := int(visible_LL[i].sum())) > 1:
            relative.append(entropy[-1] / math.log(visible))
    return [math.fsum(values) / len(values) for values in (future, distance, entropy, relative)]


def tables(means: AttentionMeans) -> np.ndarray:
    return np.array([means.future_share, means.distance, means.entropy, means.relative_entropy])


def theirs(family: str, inputs_BLD: torch.Tensor, mask: str) -> list[np.ndarray]:
    """A fresh copy of the model as transformers runs it: a layer's shares (B, H, L, L)."""
    cls, config = FAMILIES[family]
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = cls(config).eval()
    seen = VALID.long()
    if mask == "open":
        seen = torch.zeros(2, 1, 9, 9).masked_fill(~VALID[:, None, None, :], torch.finfo(torch.float32).min)
    with torch.no_grad():
        output = model(inputs_embeds=inputs_BLD, attention_mask=seen, output_attentions=True)
    return [share.double().numpy() for share in output.attentions]


@pytest.mark.parametrize(("family", "mask"), [("llama", "causal"), ("llama", "open"), ("gemma3", "causal")])
def test_against_the_attention_output_of_transformers(family: str, mask: str) -> None:
    """Gemma's first and last layer see a window of 4 tokens."""
    cls, config = FAMILIES[family]
    inputs_BLD = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    ours, tally = cls(copy.deepcopy(config)).eval(), AttentionTally()
    open_backbone(ours, family)
    weight = torch.full((2, 9), float(mask == "open"))
    with torch.no_grad():
        ours(
            inputs_embeds=inputs_BLD,
            visibility=Visibility(weight, VALID, torch.float32, "eager", tally.watch(VALID)),
        )
    shares = theirs(family, inputs_BLD, mask)
    behind = np.subtract.outer(np.arange(9), np.arange(9))
    expected = np.zeros((4, len(shares), 4))
    for layer, share_BHLL in enumerate(shares):
        width = 4 if family == "gemma3" and layer != 1 else 9
        for b, tokens in enumerate(LENGTHS):
            visible = (np.abs(behind) < width) & ((behind >= 0) | (mask == "open")) & (np.arange(9) < tokens)
            for head in range(4):
                expected[:, layer, head] += np.array(by_hand(share_BHLL[b, head], visible, tokens)) / 2
    means = tally.means()
    assert means.rows == 2
    np.testing.assert_allclose(tables(means), expected, atol=2e-6)
    assert len({round(share, 3) for heads in means.distance for share in heads}) == 12  # heads that can be told apart
    if mask == "causal":
        assert not np.any(means.future_share)
        assert means.uniform_future_share == [0, 0, 0]
    else:
        assert np.min(means.future_share) > 0
        alone = np.mean([(n - 1) / (2 * n) for n in LENGTHS])
        np.testing.assert_allclose(means.uniform_future_share, alone, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_queries_that_ask_for_nothing_give_what_the_mask_gives(weight: float) -> None:
    """Future share of query i among n tokens: w (n - 1 - i) of i + 1 + w (n - 1 - i)."""
    tally, module = AttentionTally(), torch.nn.Module()
    module.layer_idx = 0
    visibility = Visibility(torch.full((2, 9), weight), VALID, torch.float32, "eager", tally.watch(VALID))
    q, kv = torch.zeros(2, 6, 9, 7), torch.randn(2, 2, 9, 7)
    attend(module, q, kv, kv, None, visibility=visibility)
    means = tally.means()
    ahead = [[weight * (n - 1 - i) / (i + 1 + weight * (n - 1 - i)) for i in range(n)] for n in LENGTHS]
    expected = np.mean([np.mean(row) for row in ahead])
    np.testing.assert_allclose(means.uniform_future_share, [expected], atol=1e-6)
    np.testing.assert_allclose(means.future_share, np.full((1, 6), expected), atol=1e-6)
    np.testing.assert_allclose(means.distance, np.full((1, 6), means.uniform_distance[0]), atol=1e-5)
    if weight in (0, 1):
        np.testing.assert_allclose(means.relative_entropy, 1, atol=1e-6)
    else:
        assert np.max(means.relative_entropy) < 1


def test_autocast_does_not_round_distances() -> None:
    torch.manual_seed(0)
    share = torch.softmax(torch.randn(1, 3, 600, 600), dim=-1)
    visible, valid = torch.ones(1, 1, 600, 600, dtype=torch.bool), torch.ones(1, 600, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        found = measure(share, visible, valid)[:, 0, 1]
    expected = by_hand(share[0, 1].double().numpy(), visible[0, 0].numpy(), 600)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_padding_queries_may_hold_anything() -> None:
    share_BHLL = torch.full((2, 3, 9, 9), torch.nan)
    for b, tokens in enumerate(LENGTHS):
        share_BHLL[b, :, :tokens] = torch.nn.functional.pad(torch.rand(3, tokens, tokens).softmax(-1), (0, 9 - tokens))
    found = measure(share_BHLL, VALID[:, None, None, :].expand(2, 1, 9, 9), VALID)
    for b, tokens in enumerate(LENGTHS):
        cut = share_BHLL[b : b + 1, :, :tokens, :tokens], torch.ones(1, 1, tokens, tokens, dtype=torch.bool)
        expected = measure(*cut, torch.ones(1, tokens, dtype=torch.bool))
        torch.testing.assert_close(found[:, b : b + 1], expected)


def numbers(means: AttentionMeans) -> np.ndarray:
    uniform = np.array([means.uniform_future_share, means.uniform_distance])
    return np.concatenate([tables(means).ravel(), uniform.ravel()])


@pytest.mark.parametrize("recipe", [BidirectionalConfig(recipe="bidirectional"), PrefixConfig(recipe="prefix")])
def test_neither_batches_nor_padding_matter(recipe: RecipeConfig, tiny_decoder: str) -> None:
    """One batch with much padding, batches of a few rows, and rows one by one, each of which counts the same."""
    bundle, rows = encoder_on(tiny_decoder, recipe), user_rows(13)
    wide, small = (attention_of(bundle, lookup, rows, bundle.embedding_weight, tokens) for tokens in (100_000, 60))
    alone = [attention_of(bundle, lookup, rows.slice(n, 1), bundle.embedding_weight) for n in range(13)]
    assert wide.rows == small.rows == 13
    np.testing.assert_allclose(numbers(wide), numbers(small), atol=1e-5)
    np.testing.assert_allclose(numbers(wide), np.mean([numbers(means) for means in alone], axis=0), atol=1e-5)
    assert np.array(wide.future_share).shape == (2, 4)


def test_a_layer_with_a_mask_of_its_own(tiny_decoder: str) -> None:
    """hybrid_mlp starts with the weight sigmoid(-3) for every later key of the user segment, in every layer."""
    bundle, rows = encoder_on(tiny_decoder, HybridMLPConfig(recipe="hybrid_mlp")), user_rows(3)
    means = attention_of(bundle, lookup, rows, bundle.embedding_weight)
    batch = Collator(bundle.encoder.template, bundle.tokenizer, lookup).users(rows)
    weight, expected = 1 / (1 + math.exp(-START)), []
    for history, tokens in zip(batch.layout.tokens.history_BL, batch.layout.last_B.tolist(), strict=True):
        ahead = [weight * int(history[i + 1 :].sum()) for i in range(tokens + 1)]
        expected.append(np.mean([w / (i + 1 + w) for i, w in enumerate(ahead)]))
    np.testing.assert_allclose(means.uniform_future_share, [np.mean(expected)] * 2, atol=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex"])
def test_watching_changes_nothing(attention: str, tiny_decoder: str) -> None:
    bundle = encoder_on(tiny_decoder, BidirectionalConfig(recipe="bidirectional"), attention=attention)
    encoder, seen = bundle.encoder.eval(), []
    batch = Collator(encoder.template, bundle.tokenizer, lookup).users(user_rows(3))
    tokens = batch.layout.tokens
    weight = torch.rand(tokens.valid_BL.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        inputs = encoder.inputs(batch)
        expected = encoder.hidden(inputs, tokens, weight)
        watched = encoder.hidden(inputs, tokens, weight, watch=lambda *what: seen.append(what))
    atol = 0 if attention == "eager" else 2e-5
    torch.testing.assert_close(watched[tokens.valid_BL], expected[tokens.valid_BL], atol=atol, rtol=atol)
    assert [layer for layer, *_ in seen] == [0, 1]
    for _, share_BHLL, _ in seen:
        torch.testing.assert_close(share_BHLL.sum(dim=-1), torch.ones(share_BHLL.shape[:3]))


def test_causal_masks_have_no_future(tiny_decoder: str) -> None:
    bundle = encoder_on(tiny_decoder, CausalConfig(recipe="causal"), dtype="bfloat16")
    means = attention_of(bundle, lookup, user_rows(5), bundle.embedding_weight)
    assert means.future_share == [[0] * 4] * 2
    assert means.uniform_future_share == [0, 0]
    assert np.min(means.distance) > 0


@pytest.fixture
def some() -> Callable[..., AttentionMeans]:
    """Means of two layers of three heads with these future shares."""

    def build(future: list[list[float]]) -> AttentionMeans:
        same = [[0.5] * 3] * 2
        return AttentionMeans(11, future, same, same, same, [0.25, 0.5], [3.0, 4.0])

    return build


def test_what_changed(some: Callable) -> None:
    before, after = some([[0.1, 0.2, 0.3], [0.0, 0.5, 0.4]]), some([[0.1, 0.204, 0.2], [0.25, 0.49, 0.45]])
    opened, closed = opened_and_closed(before, after)
    assert opened == [(1, 0, 0.0, 0.25), (1, 2, 0.4, 0.45)]
    assert closed == [(0, 2, 0.3, 0.2), (1, 1, 0.5, 0.49)]
    lines = terminal_table({"before": before, "opened": before, "after": after}, most=1).splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["0", "before", "0.200"],
        ["opened", "0.200", "0.250"],
        ["after", "0.168", "0.250"],
    ]
    assert lines[-2] == "heads that opened: 2; most of all (layer.head) 1.0 0.000 -> 0.250"
    assert lines[-1] == "heads that closed: 2; most of all (layer.head) 0.2 0.300 -> 0.200"
    assert terminal_table({"before": before, "after": before}).endswith("heads that closed: 0")


def test_rows_are_taken_in_any_table_form(tiny_decoder: str) -> None:
    """As read from several files: a table of several chunks."""
    bundle = encoder_on(tiny_decoder, BidirectionalConfig(recipe="bidirectional"))
    rows = user_rows(6)
    chunked = pa.concat_tables([rows.slice(0, 2), rows.slice(2)])
    one, other = (attention_of(bundle, lookup, table, bundle.embedding_weight) for table in (chunked, rows))
    np.testing.assert_allclose(numbers(one), numbers(other))

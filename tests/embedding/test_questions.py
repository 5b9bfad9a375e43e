"""Many questions about one history: one pass gives what a pass for each question gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import Gemma3TextConfig, Gemma3TextModel

from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.masks import RecipeConfig
from ray_ggsm.masks.fixed import HybridGQConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import BagConfig, FusionConfig, ProjectionConfig
from ray_ggsm.model.saved import EncoderBundle
from tests.helpers.encoders import RECIPES, encoder_on, lookup
from tests.helpers.families import SMALL
from tests.helpers.rows import user_rows

SHARED = ("causal", "prefix", "hybrid_gq", "oracle")
QUERIES = ["why?", "", "a longer question than the other ones", "why not?"]


def moved(bundle: EncoderBundle) -> EncoderBundle:
    """LoRA, biases and centres start at zero: move them, so that they count."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in bundle.encoder.trainable().values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    fusion = bundle.encoder.fusion
    if fusion is not None and fusion.bag is not None:
        fusion.bag.fit(*Collator(bundle.encoder.template, bundle.tokenizer, lookup).bag(user_rows(30)))
    width = bundle.encoder.vector_width
    bundle.encoder.set_centres(torch.randn(9, width), torch.randn(bundle.encoder.state_width))
    return bundle


def asked(rows: pa.Table, query: str) -> pa.Table:
    return rows.append_column("query", pa.array([query] * len(rows)))


def assert_shared(embedder: Embedder, rows: pa.Table) -> None:
    found = embedder.questions(rows, QUERIES)
    for query, each in zip(QUERIES, found, strict=True):
        alone = embedder(asked(rows, query))
        np.testing.assert_allclose(each.vectors, alone.vectors, atol=1e-5)
        assert each.fits.all()
    assert np.abs(found[0].vectors - found[2].vectors).max() > 1e-3, "the questions make a difference"


@pytest.mark.parametrize("pooling", ["mean", "user"])
@pytest.mark.parametrize("mask", RECIPES, ids=lambda mask: mask.recipe)
def test_one_pass_for_all_questions_is_a_pass_for_each(mask: RecipeConfig, pooling: str, tiny_decoder: str) -> None:
    """In float32, with rows of many lengths; recipes whose histories look at the question take a pass for each."""
    bundle = moved(encoder_on(tiny_decoder, mask, pooling=pooling))
    encoder = LanguageModel(bundle, lookup)
    rows = user_rows(17)
    assert (encoder.question_sequences(rows, QUERIES) is not None) == (mask.recipe in SHARED)
    assert_shared(Embedder(encoder, tokens_per_batch=400), rows)


OPTIONS = {"summary_tokens": True, "projection": ProjectionConfig(hidden=9, width=8)}


@pytest.mark.parametrize(
    "model", [{"attention": "sdpa"}, {"attention": "flex"}, {"fusion": FusionConfig(bag=BagConfig())}, OPTIONS], ids=str
)
def test_with_other_attention_and_with_options(model: dict, tiny_decoder: str) -> None:
    bundle = moved(encoder_on(tiny_decoder, RECIPES[0], **model))
    assert_shared(Embedder(LanguageModel(bundle, lookup), tokens_per_batch=400), user_rows(7))


def test_a_global_query_of_earlier_encoders(tiny_decoder: str) -> None:
    bundle = moved(encoder_on(tiny_decoder, HybridGQConfig(recipe="hybrid_gq", joins="state")))
    assert_shared(Embedder(LanguageModel(bundle, lookup), tokens_per_batch=400), user_rows(7))


@pytest.mark.parametrize(("window", "shared"), [(12, False), (4096, True)])
def test_windows_hide_no_history_from_the_last_question(
    window: int, shared: bool, tiny_decoder: str, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_decoder, tmp_path / "decoder")
    values = SMALL | {"vocab_size": json.loads((directory / "config.json").read_text())["vocab_size"]}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(**values, sliding_window=window, layer_types=kinds, query_pre_attn_scalar=6)
    Gemma3TextModel(config).save_pretrained(directory)
    encoder = LanguageModel(moved(encoder_on(str(directory), RECIPES[0])), lookup)
    assert (encoder.question_sequences(user_rows(7), QUERIES) is not None) == shared
    assert_shared(Embedder(encoder, tokens_per_batch=400), user_rows(7))


def test_each_history_goes_through_the_encoder_once(tiny_decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = LanguageModel(encoder_on(tiny_decoder, RECIPES[0]), lookup)
    embedder, rows = Embedder(encoder, tokens_per_batch=10_000), user_rows(5)
    alone = encoder.collator.user_lengths(rows).sum()
    embedder.questions(rows, QUERIES)
    text = sum(len(f"Instruction: {query}".rstrip()) + 1 for query in QUERIES)  # a token per byte, and <USER>
    history = alone - 5 * (len("Instruction:") + 1)
    assert embedder.tokens == history + 5 * text


def test_the_order_of_questions_and_the_rows_beside_a_row_change_nothing(tiny_decoder: str) -> None:
    embedder = Embedder(LanguageModel(moved(encoder_on(tiny_decoder, RECIPES[0])), lookup), tokens_per_batch=10_000)
    rows = user_rows(9)
    found, back = embedder.questions(rows, QUERIES), embedder.questions(rows, QUERIES[::-1])
    few = embedder.questions(rows.slice(4, 1), QUERIES)
    for k in range(len(QUERIES)):
        np.testing.assert_allclose(found[k].vectors, back[-1 - k].vectors, atol=1e-5)
        np.testing.assert_allclose(found[k].vectors[4:5], few[k].vectors, atol=1e-5)


def test_another_question_cannot_be_seen(tiny_decoder: str, make_rows: Callable) -> None:
    """A change in one question changes no bit of the others' hidden states."""
    encoder = LanguageModel(moved(encoder_on(tiny_decoder, RECIPES[0])), lookup)
    states = []
    for second in ("what now?", "how else?"):
        sequences = encoder.question_sequences(make_rows(4), ["why?", second, "who?"])
        batch = sequences.batch(np.arange(4))
        with torch.no_grad():
            weight = encoder.bundle.recipe.inference_weight(batch.layout.tokens)
            states.append(encoder.model(batch, weight))
    torch.testing.assert_close(states[0][:, [0, 2]], states[1][:, [0, 2]], rtol=0, atol=1e-6)
    assert (states[0][:, 1] - states[1][:, 1]).abs().max() > 1e-4

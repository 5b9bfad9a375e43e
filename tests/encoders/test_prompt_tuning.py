"""Soft prompts: only they are fitted, the loss is the formula's, and without them no bit changes."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.encoders.prompt_tuning import NAME, PromptTuner, TuningConfig, balanced
from ray_ggsm.masks.fixed import CausalConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.soft_prompt import PromptDescription, SoftPrompt, load_prompt, prompts_of
from tests.embedding.test_questions import moved
from tests.helpers.encoders import RECIPES, encoder_on, lookup
from tests.helpers.rows import user_rows


def language_model(decoder: str, **model: object) -> LanguageModel:
    return LanguageModel(moved(encoder_on(decoder, CausalConfig(recipe="causal"), **model)), lookup)


def positives(rows: pa.Table) -> np.ndarray:
    """A label that the events tell: more bills than apps."""
    return np.array([len(b) > len(a) for b, a in zip(rows["bill"].to_pylist(), rows["app"].to_pylist(), strict=True)])


@pytest.mark.parametrize("mask", RECIPES, ids=lambda mask: mask.recipe)
def test_without_a_prompt_no_bit_changes(mask, tiny_decoder: str) -> None:
    encoder = LanguageModel(moved(encoder_on(tiny_decoder, mask)), lookup)
    embedder, rows = Embedder(encoder, 10_000), user_rows(5)
    before = embedder(rows).vectors
    encoder.use_prompts({"prompt:x": torch.randn(6, encoder.model.width)})
    np.testing.assert_array_equal(embedder(rows).vectors, before)
    prompted = embedder(rows.append_column("query", pa.array(["prompt:x"] * 5))).vectors
    assert np.abs(prompted - before).max() > 1e-3
    encoder.use_prompts({})
    np.testing.assert_array_equal(embedder(rows).vectors, before)


def test_the_loss_is_that_of_the_formula(tiny_decoder: str) -> None:
    encoder = language_model(tiny_decoder)
    tuner, rows = PromptTuner(encoder, TuningConfig(temperature=0.3), 0), user_rows(9)
    y = positives(rows)
    u = Embedder(encoder, 10_000)(rows.append_column("query", pa.array([NAME] * 9))).vectors.astype(np.float64)
    p = tuner.prototype_KW.detach().numpy().astype(np.float64)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    logits = u @ p.T / 0.3
    expected = np.mean(
        [math.log(sum(math.exp(x) for x in row)) - row[int(k)] for row, k in zip(logits, y, strict=True)]
    )
    assert tuner.loss(rows, y).item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(tuner.scores(rows, 300), u @ (p[1] - p[0]), atol=1e-5)
    with torch.no_grad():
        tuner.prototype_KW.zero_()
    assert tuner.loss(rows, y).item() == pytest.approx(math.log(2))


def test_only_the_prompt_and_its_prototypes_are_fitted(tiny_decoder: str) -> None:
    encoder = language_model(tiny_decoder)
    before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    tuner, rows = PromptTuner(encoder, TuningConfig(), 0), user_rows(20)
    start = tuner.vector_PD.detach().clone()
    tuner.step(rows, positives(rows))
    assert all(parameter.grad is None for parameter in encoder.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.model.state_dict().items())
    assert (tuner.vector_PD.detach() - start).abs().max() > 1e-4


def test_a_label_that_events_tell_is_learned(tiny_decoder: str) -> None:
    encoder = language_model(tiny_decoder)
    rows, other = user_rows(200, seed=1), user_rows(200, seed=2)
    tuner, batches = PromptTuner(encoder, TuningConfig(learning_rate=0.02), 0), balanced(positives(rows), 64, 0)
    losses = [
        tuner.step(rows.take(pa.array(chosen)), positives(rows)[chosen])
        for chosen, _ in zip(batches, range(60), strict=False)
    ]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.05
    score, y = tuner.scores(other, 4000), positives(other)
    assert np.mean(score[y][:, None] > score[~y]) > 0.75


def test_batches_are_balanced_and_rows_without_a_label_never_come() -> None:
    positive = np.array([1, 0, np.nan, 0, 0, 1, np.nan, 0, 0, 0])
    batches = balanced(positive, 5, 3)
    seen = [next(batches) for _ in range(20)]
    assert all((positive[batch] == 1).sum() == 2 and (positive[batch] == 0).sum() == 3 for batch in seen)
    counts = np.bincount(np.concatenate(seen), minlength=10)
    assert counts[[2, 6]].sum() == 0
    assert counts[[1, 3, 4, 7, 8, 9]].tolist() == [10] * 6  # 60 draws of six rows, each once before any comes again
    with pytest.raises(InputError, match="0 training rows have it and 2 do not"):
        next(balanced(np.array([0, np.nan, 0]), 4, 0))


def test_saved_prompts_come_back_and_know_their_encoder(tmp_path: Path) -> None:
    description = PromptDescription(encoder="e1", label="buys", vectors=6, steps=5)
    prompt = SoftPrompt(description, torch.randn(6, 24), torch.randn(2, 24))
    prompt.save(str(tmp_path / "p"))
    back = load_prompt(str(tmp_path / "p"))
    assert back.description == description
    assert torch.equal(back.vector_PD, prompt.vector_PD)
    assert torch.equal(back.prototype_KW, prompt.prototype_KW)
    text = f"prompt:{tmp_path / 'p'}"
    e1, e2 = (SavedEncoder("somewhere", digest, None) for digest in ("e1", "e2"))
    assert torch.equal(prompts_of(["", "why?", text], e1)[text], prompt.vector_PD)
    with pytest.raises(InputError, match="was fitted on the encoder e1, and this is e2"):
        prompts_of([text], e2)
    with pytest.raises(InputError, match="no soft prompt here"):
        prompts_of([f"prompt:{tmp_path / 'q'}"], e1)
    with pytest.raises(InputError, match="must name the whole path"):
        prompts_of(["prompt:outputs/p"], e1)
    for name in ("prompt.safetensors", "prompt.json"):
        (tmp_path / "p" / name).write_text("{")
        with pytest.raises(InputError, match="is missing or damaged; restore them, or remove"):
            load_prompt(str(tmp_path / "p"))
        prompt.save(str(tmp_path / "p"))


def test_a_prompt_shares_the_history_with_other_questions(tiny_decoder: str) -> None:
    encoder = language_model(tiny_decoder)
    encoder.use_prompts(
        {"prompt:x": torch.randn(6, encoder.model.width), "prompt:y": torch.randn(3, encoder.model.width)}
    )
    embedder, rows, queries = Embedder(encoder, 10_000), user_rows(7), ["prompt:y", "", "why?", "prompt:x"]
    for query, each in zip(queries, embedder.questions(rows, queries), strict=True):
        alone = embedder(rows.append_column("query", pa.array([query] * 7)))
        np.testing.assert_allclose(each.vectors, alone.vectors, atol=1e-5)

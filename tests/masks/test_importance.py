"""Importance without the rows' scale: found from rows of any lengths, by one worker or several."""

import threading

import numpy as np
import pytest
import torch

from ray_ggsm.masks import Tokens
from ray_ggsm.masks.ggsm import GGSM, GGSMConfig
from ray_ggsm.masks.norms import relative_norms

LONG, SHORT, D = 24, 6, 3
"""Lengths of rows in tokens, and width."""


def ggsm(row_scale: str = "removed") -> GGSM:
    return GGSMConfig(recipe="ggsm", total_steps=1000, row_scale=row_scale, smoothing=0.9).build()


def scaled_rows(rows: int, rng: np.random.Generator, importance_S: np.ndarray, short: float) -> tuple:
    """Gradients whose norm is scale of the row * importance of the slot * noise, as mean pooling gives them: the scale
    is 1 / length times the row's difficulty. A share `short` of the rows has the first SHORT slots only."""
    length_B = np.where(rng.random(rows) < short, SHORT, LONG)
    valid_BL = torch.from_numpy(np.arange(LONG) < length_B[:, None])
    scale_B, noise_BL = np.exp(rng.normal(0, 1, rows)) / length_B, np.exp(rng.normal(0, 0.3, (rows, LONG)))
    norm_BL = scale_B[:, None] * importance_S * noise_BL
    direction_BLD = rng.normal(size=(rows, LONG, D))
    grad_BLD = direction_BLD / np.linalg.norm(direction_BLD, axis=-1, keepdims=True) * norm_BL[..., None]
    slots = torch.arange(LONG).expand(rows, LONG)
    return torch.from_numpy(grad_BLD).float(), Tokens(valid_BL, slots, valid_BL, LONG, LONG)


def found(recipe: GGSM, importance_S: np.ndarray, short: float, steps: int) -> np.ndarray:
    """The recipe's importance over the planted one, after so many steps; of mean 1."""
    rng = np.random.default_rng(0)
    for step in range(steps):
        recipe.observe(*scaled_rows(128, rng, importance_S, short), step)
        recipe.end_step(lambda tensor: tensor)
    ratio_S = recipe.importance_S.numpy() / importance_S
    return ratio_S / ratio_S.mean()


@pytest.mark.parametrize("first", [2.0, 1.0, 0.5, 0.1])
def test_importance_does_not_depend_on_the_lengths_of_rows(first) -> None:
    """Whether the slots that short rows have are more important than the others or less, long rows alone and mostly
    short ones find the planted importances within a warm-up of 24 steps."""
    importance_S = np.where(np.arange(LONG) < SHORT, first, 1.0) * np.linspace(1.2, 0.8, LONG)
    for short in (0.0, 0.5, 0.9):
        np.testing.assert_allclose(found(ggsm(), importance_S, short, 24), 1, atol=0.12)


def test_kept_scales_make_slots_of_short_rows_look_important() -> None:
    ratio_S = found(ggsm("kept"), np.linspace(1.2, 0.8, LONG), 0.5, 24)
    assert ratio_S[:SHORT].mean() > 2 * ratio_S[SHORT:].mean()


def test_relative_norms_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    norm, importance, valid = rng.exponential(size=(3, 5)), rng.exponential(size=(3, 5)), rng.random((3, 5)) < 0.7
    valid[:, 0] = True
    got = relative_norms(torch.from_numpy(norm).float(), torch.from_numpy(importance).float(), torch.from_numpy(valid))
    for b in range(3):
        there = [j for j in range(5) if valid[b, j]]
        scale = sum(norm[b, j] for j in there) / sum(importance[b, j] for j in there)
        for j in range(5):
            assert got[b, j].item() == pytest.approx(norm[b, j] / scale if j in there else 0, rel=1e-5)


def test_a_row_without_gradients_says_nothing() -> None:
    silent, alone, rng = ggsm(), ggsm(), np.random.default_rng(2)
    grad_BLD, rows = scaled_rows(4, rng, np.ones(LONG), 0.5)
    silent.observe(torch.cat([grad_BLD[:3], torch.zeros_like(grad_BLD[3:])]), rows, 0)
    alone.observe(grad_BLD[:3], Tokens(rows.valid_BL[:3], rows.slot_BL[:3], rows.history_BL[:3], LONG, LONG), 0)
    for recipe in (silent, alone):
        recipe.end_step(lambda tensor: tensor)
    assert torch.equal(silent.importance_S, alone.importance_S)
    assert torch.equal(silent.seen_S, alone.seen_S)


def test_two_workers_find_what_one_finds() -> None:
    """Each sees half of every step's rows; their sums meet as in an all-reduce."""
    together, apart, barrier = ggsm(), [ggsm(), ggsm()], threading.Barrier(2)
    parts: list[torch.Tensor] = [torch.zeros(0)] * 2

    def reduced(worker: int, tensor: torch.Tensor) -> torch.Tensor:
        parts[worker] = tensor.clone()
        barrier.wait(60)
        total = parts[0] + parts[1]
        barrier.wait(60)
        return total

    def work(worker: int) -> None:
        rng = np.random.default_rng(3)
        for step in range(3):
            grad_BLD, rows = scaled_rows(8, rng, np.linspace(2, 1, LONG), 0.5)
            half = slice(4 * worker, 4 * worker + 4)
            own = Tokens(rows.valid_BL[half], rows.slot_BL[half], rows.history_BL[half], LONG, LONG)
            apart[worker].observe(grad_BLD[half], own, step)
            apart[worker].end_step(lambda tensor: reduced(worker, tensor))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rng = np.random.default_rng(3)
    for step in range(3):
        together.observe(*scaled_rows(8, rng, np.linspace(2, 1, LONG), 0.5), step)
        together.end_step(lambda tensor: tensor)
    for recipe in apart:
        torch.testing.assert_close(recipe.importance_S, together.importance_S, rtol=1e-5, atol=0)

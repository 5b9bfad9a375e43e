"""InfoNCE against eq. 6-8 written out with loops in float64."""

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ray_ggsm.training import loss
from ray_ggsm.training.loss import Objective, Sides, batch_statistics, gathered, info_nce

TERMS = ("ua", "uu", "aa")


def sides(user: torch.Tensor, answer: torch.Tensor, ids: torch.Tensor | None = None, centre: bool = False) -> Sides:
    """Of one worker; without ids, every row has a user of its own."""
    return gathered(user, answer, torch.arange(len(user)) if ids is None else ids, centre)


def reference(u: np.ndarray, a: np.ndarray, ids: np.ndarray, tau: float, margin: float, terms, literal: bool) -> float:
    u = u / np.linalg.norm(u, axis=1, keepdims=True)
    a = a / np.linalg.norm(a, axis=1, keepdims=True)
    losses = []
    for i in range(len(u)):
        positive = float(u[i] @ a[i])
        exponents = [positive / tau]
        for name, (x, y) in {"ua": (u, a), "uu": (u, u), "aa": (a, a)}.items():
            for j in range(len(u)):
                s = float(x[i] @ y[j])
                masked = s > positive + margin and (literal or name == "ua")
                if name in terms and ids[i] != ids[j] and not masked:
                    exponents.append(s / tau)
        top = max(exponents)
        losses.append(top + math.log(sum(math.exp(e - top) for e in exponents)) - exponents[0])
    return sum(losses) / len(losses)


@settings(deadline=None)
@given(
    B=st.integers(1, 7), D=st.integers(2, 5), seed=st.integers(0, 10**6), tau=st.sampled_from([0.02, 0.07, 1.0]),
    margin=st.sampled_from([0.05, 0.3]), literal=st.booleans(), terms=st.sampled_from([("ua",), ("ua", "aa"), TERMS]),
    rows_at_a_time=st.integers(1, 4),
)  # fmt: skip
def test_equals_reference(B, D, seed, tau, margin, literal, terms, rows_at_a_time) -> None:
    rng = np.random.default_rng(seed)
    u, a = rng.normal(size=(2, B, D))
    ids = rng.integers(0, max(2, B), size=B)
    with patch.object(loss, "ROWS_AT_A_TIME", rows_at_a_time):
        objective = Objective(tau, margin, terms, "literal" if literal else "unmasked")
        got = info_nce(sides(torch.tensor(u), torch.tensor(a), torch.tensor(ids)), objective)
    assert got.item() == pytest.approx(reference(u, a, ids, tau, margin, terms, literal), rel=2e-4, abs=2e-4)


@settings(deadline=None)
@given(
    B=st.integers(2, 6), D=st.integers(2, 5), seed=st.integers(0, 10**6), tau=st.sampled_from([0.05, 0.5]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]), repeated=st.booleans(), centre=st.booleans(),
)  # fmt: skip
def test_slope_in_any_direction_equals_that_of_the_reference(B, D, seed, tau, scale, repeated, centre) -> None:
    """Gradients of both sides at once, also for tiny and huge vectors and for two rows with the same vectors."""
    rng = np.random.default_rng(seed)
    both = rng.normal(size=(2, B, D)) * scale
    if repeated:
        both[:, 1] = both[:, 0]
    ids, direction = np.arange(B), rng.normal(size=(2, B, D)) * scale

    def loss(x: np.ndarray) -> float:
        x = x - x.mean(axis=1, keepdims=True) if centre else x
        return reference(x[0], x[1], ids, tau, 100.0, TERMS, True)  # a margin that masks nothing: no jumps

    lengths = np.linalg.norm(both - both.mean(axis=1, keepdims=True) if centre else both, axis=2)
    assume(lengths.min() > 0.2 * scale)
    tensor = torch.tensor(both, requires_grad=True)
    got = info_nce(sides(tensor[0], tensor[1], centre=centre), Objective(tau, margin=100.0))
    got.backward()
    assert got.item() == pytest.approx(loss(both), rel=2e-4, abs=2e-4)
    expected = (loss(both + 1e-5 * direction) - loss(both - 1e-5 * direction)) / 2e-5
    size = np.linalg.norm(tensor.grad.numpy()) * np.linalg.norm(direction)
    assert float((tensor.grad.numpy() * direction).sum()) == pytest.approx(expected, abs=1e-3 * size + 1e-4)


def test_masked_negatives_push_nothing() -> None:
    """The answer of row 1 is closer to user 0 than its own by more than the margin: eq. 8 takes it out."""
    user, answer = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [1.0, 0.1]])
    kept = info_nce(sides(user, answer), Objective(temperature=0.1, margin=1.0, terms=("ua",)))
    masked = info_nce(sides(user, answer), Objective(temperature=0.1, margin=0.05, terms=("ua",)))
    assert masked < kept
    assert masked.item() == pytest.approx(reference(*map(np.asarray, (user, answer, [0, 1])), 0.1, 0.05, ("ua",), True))


@settings(deadline=None)
@given(B=st.integers(1, 7), seed=st.integers(0, 10**6), margin=st.sampled_from([0.05, 0.3]), any_rule=st.booleans())
def test_answers_against_users_and_one_mask_for_all_terms(B, seed, margin, any_rule) -> None:
    """The term au, and eq. 8 with one m_ij: 0 where the other user or the other answer is too close to the user."""
    rng = np.random.default_rng(seed)
    u, a = rng.normal(size=(2, B, 3))
    terms, rule = ("ua", "uu", "aa", "au"), "any" if any_rule else "own"
    got = info_nce(sides(torch.tensor(u), torch.tensor(a)), Objective(0.1, margin, terms, mask_rule=rule))
    u, a = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, a))
    losses = []
    for i in range(B):
        z, limit = math.exp(u[i] @ a[i] / 0.1), u[i] @ a[i] + margin
        for j in set(range(B)) - {i}:
            close = u[i] @ u[j] > limit or u[i] @ a[j] > limit
            for s in (u[i] @ a[j], u[i] @ u[j], a[i] @ a[j], a[i] @ u[j]):
                z += 0 if (close if any_rule else s > limit) else math.exp(s / 0.1)
        losses.append(math.log(z) - u[i] @ a[i] / 0.1)
    assert got.item() == pytest.approx(np.mean(losses), rel=2e-4, abs=2e-4)


def test_stable_for_identical_vectors_and_low_temperature() -> None:
    same = torch.ones(6, 4, requires_grad=True)
    loss = info_nce(sides(same, torch.ones(6, 4)), Objective(temperature=0.005, margin=0.1))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + 3 * 5), rel=1e-4)  # the signature of a collapse
    assert same.grad.isfinite().all()


def test_rows_of_one_user_are_not_negatives() -> None:
    u, a = torch.randn(2, 4), torch.randn(2, 4)
    loss = info_nce(sides(u, a, torch.tensor([5, 5])), Objective(temperature=0.1, margin=0.1))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_rows_with_equal_answers_are_not_negatives() -> None:
    """Rows 0 and 1 of different users have one answer: only row 2 is a negative of theirs, in every term."""
    u, a = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    equal = torch.tensor([7, 7, 8])
    got = info_nce(gathered(u, a, torch.arange(3), False, answer_ids_b=equal), Objective(temperature=0.1, margin=0.1))
    expected = reference(u.numpy(), a.numpy(), equal.numpy(), 0.1, 0.1, TERMS, True)
    assert got.item() == pytest.approx(expected, rel=2e-4, abs=2e-4)


def test_statistics_of_a_batch_that_is_solved() -> None:
    u = torch.eye(4)
    seen = batch_statistics(sides(u, u), Objective(temperature=0.1, margin=0.1, terms=TERMS))
    assert seen.accuracy == 1
    assert seen.mean_rank == 1
    assert seen.positive == pytest.approx(1)
    assert seen.negative == pytest.approx(0)
    assert seen.masked == {"ua": 0, "uu": 0, "aa": 0}

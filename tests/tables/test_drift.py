"""Drift measures on sets whose answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import procrustes as scipy_procrustes

from ray_ggsm.tables import drift

SEEDS = st.integers(0, 10_000)


def cloud(seed: int, N: int = 61, D: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, D))


def rotation(seed: int, D: int = 5) -> np.ndarray:
    return np.linalg.qr(cloud(seed, D, D))[0]


@given(SEEDS)
def test_rotation_changes_cosines_and_nothing_else(seed):
    old = cloud(seed)
    new = 3 * old @ rotation(seed + 1)
    assert drift.procrustes(old, new) == pytest.approx(0, abs=1e-6)
    assert drift.neighbour_overlap(old, new) == 1
    assert drift.cosines(old, new).mean() < 0.95


@given(SEEDS)
def test_against_scipy(seed):
    """scipy gives the squared distance of centred sets."""
    old, new = cloud(seed), cloud(seed + 1)
    old, new = old - old.mean(axis=0), new - new.mean(axis=0)
    assert drift.procrustes(old, new) ** 2 == pytest.approx(scipy_procrustes(old, new)[2])


def test_cosines_by_hand():
    old = np.array([[1.0, 0], [1, 0], [1, 0], [0, 0]])
    new = np.array([[2.0, 0], [0, 1], [-1, 0], [1, 0]])
    assert drift.cosines(old, new).tolist() == [1, 0, -1, 0]


def test_other_widths():
    old = cloud(0, 61, 3)
    wider = np.hstack([old, np.zeros((61, 4))]) @ rotation(1, 7)
    assert drift.procrustes(old, wider) == pytest.approx(0, abs=1e-6)
    assert drift.neighbour_overlap(old, wider) == 1


def test_neighbours_by_hand():
    angles = np.radians([0, 10, 20, 100, 110, 120])
    old = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    swapped = old[[3, 1, 2, 0, 4, 5]]  # users 0 and 3 change places
    assert drift.neighbour_overlap(old, old, k=2) == 1
    assert drift.neighbour_overlap(old, swapped, k=2) == pytest.approx((0 + 0.5 + 0.5 + 0 + 0.5 + 0.5) / 6)
    assert drift.neighbour_overlap(old[:1], old[:1]) == 1
    assert drift.neighbour_overlap(old[:4], old[:4], k=10) == 1


@given(SEEDS)
def test_mean_similarity_is_the_mean_over_pairs(seed):
    x = cloud(seed, 13)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(13) for j in range(13) if i != j]
    assert drift.mean_similarity(x) == pytest.approx(np.mean(pairs))
    assert drift.mean_similarity(x[:1]) == 0

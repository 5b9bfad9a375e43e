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


def test_moved_rotation():
    """Every vector turned the same way: cosines fall, nobody's neighbours change."""
    old = cloud(3, 211)
    found = drift.moved(old, old @ rotation(4), k=7)
    assert found.cosine is not None
    assert found.cosine["mean"] < 0.9
    assert found.procrustes == pytest.approx(0, abs=1e-6)
    assert found.overlap == 1
    assert found.procrustes_unrelated > 0.8


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_moved_not_at_all(kind: type):
    old = cloud(0, 211).astype(kind)
    found = drift.moved(old, old, k=7)
    assert found.cosine is not None
    assert found.cosine["smallest"] == pytest.approx(1)
    assert (found.procrustes, found.overlap) == (pytest.approx(0, abs=1e-6), 1)


def test_moved_to_noise():
    """Independent vectors give what `unrelated` says, and overlap k of the N - 1 others."""
    found = drift.moved(cloud(0, 601), cloud(1, 601), k=12)
    assert found.cosine is not None
    assert found.cosine["mean"] == pytest.approx(found.cosine["unrelated"], abs=0.08)
    assert found.procrustes == pytest.approx(found.procrustes_unrelated, abs=0.02)
    assert found.overlap == pytest.approx(12 / 600, abs=0.01)
    assert found.overlap_unrelated == pytest.approx(12 / 600, abs=0.01)


def test_moved_half_of_the_users():
    """Half of the vectors are drawn anew: half of the cosines are 1, the others about 0, the overlap lies between."""
    old = cloud(0, 400)
    new = np.vstack([old[:200], cloud(1, 200)])
    found = drift.moved(old, new, k=10)
    assert found.cosine is not None
    cosine_N = drift.cosines(old, new)
    assert (cosine_N > 0.999).sum() == 200
    assert found.cosine["mean"] == pytest.approx(0.5, abs=0.05)
    assert found.cosine["p05"] == np.quantile(cosine_N, 0.05) < 0
    assert found.procrustes == pytest.approx(
        np.sqrt(1 - 0.5**2), abs=0.05
    )  # half of the mass still fits, the rest cancels
    kept = drift.neighbour_overlap(old[:200], new[:200], 10)
    assert kept == 1
    assert found.overlap_unrelated + 0.05 < found.overlap < 0.5


@given(st.integers(2, 40), SEEDS)
def test_unrelated_means_everybody_else(N: int, seed: int):
    place_N = drift._derangement(N, seed)
    assert sorted(place_N) == list(range(N))
    assert (place_N != np.arange(N)).all()


def test_moved_to_another_width():
    found = drift.moved(cloud(0, 61, 3), cloud(1, 61, 4), k=100)
    assert found.cosine is None
    assert found.k == 60
    assert found.overlap == 1  # everybody is a neighbour

"""Tests of differences against their definitions, and their error rates where nothing differs."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ray_ggsm.evaluation.comparison import Comparison, compare_seeds, delong, holm, pairwise
from ray_ggsm.evaluation.metrics import BootstrappedAuc, auc, bootstrap_aucs


def delong_by_definition(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Difference and its variance from the kernel of all pairs, without ranks."""
    components = []
    for scores in (first, second):
        x, y = scores[labels == 1][:, None], scores[labels == 0][None, :]
        components.append((x > y) + 0.5 * (x == y))
    a, b = components
    s10 = np.cov(np.stack([a.mean(axis=1), b.mean(axis=1)]))
    s01 = np.cov(np.stack([a.mean(axis=0), b.mean(axis=0)]))
    covariance = s10 / a.shape[0] + s01 / a.shape[1]
    return float(a.mean() - b.mean()), float(np.array([1, -1]) @ covariance @ np.array([1, -1]))


@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_delong_by_definition(seed, ties):
    rng = np.random.default_rng(seed)
    labels = np.append([0.0, 0.0, 1.0, 1.0], (rng.random(40) < 0.4).astype(float))
    first = rng.normal(size=44) + labels
    second = first + rng.normal(size=44)
    if ties:
        first, second = np.round(first), np.round(second)
    difference, variance = delong_by_definition(labels, first, second)
    labels = np.append(labels, np.nan)
    got = delong(labels, np.append(first, 9.0), np.append(second, -9.0))
    assert got.difference == pytest.approx(difference, abs=1e-12)
    assert got.standard_error**2 == pytest.approx(variance, abs=1e-12)
    if variance > 1e-12:
        assert got.p == pytest.approx(2 * stats.norm.sf(abs(difference) / variance**0.5), abs=1e-9)


def test_delong_of_equal_and_of_clearly_different_scores():
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.4).astype(float)
    good, bad = rng.normal(size=400) + 2 * labels, rng.normal(size=400)
    assert delong(labels, good, good).p == 1
    better = delong(labels, good, bad)
    assert better.p < 1e-6
    assert better.low < auc(labels, good) - auc(labels, bad) < better.high


def test_holm_by_hand():
    """.005 x 4; .01 x 3; .03 x 2; .04 x 1, which must not be below the one before."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert len(holm([])) == 0


def runs(
    rng: np.random.Generator, labels: np.ndarray, seeds: int, strength: float, noise: float, luck: dict | None = None
) -> dict[int, BootstrappedAuc]:
    """One recipe's runs, with seeds of its own: every seed moves the strength of its scores; scores share most of their
    noise. With `luck` its seeds are those, and their luck is the other recipe's, too."""
    shared, found = np.random.default_rng(17).normal(size=len(labels)), {}
    for seed in luck or rng.choice(10**9, seeds, replace=False).tolist():
        moved = strength + noise * rng.normal() + (luck[seed] if luck else 0)
        scores = shared + 0.3 * rng.normal(size=len(labels)) + moved * labels
        found[seed] = bootstrap_aucs({"a": labels}, {"a": scores}, np.arange(len(labels)), 100, 0)
    return found


def paired(rng: np.random.Generator, labels: np.ndarray, seeds: int, strengths: tuple, common: float) -> list:
    """Two recipes' runs with the same seeds, whose luck they have in common."""
    luck = {seed: common * rng.normal() for seed in range(seeds)}
    return [runs(rng, labels, seeds, strength, 0.05, luck) for strength in strengths]


def test_paired_seeds_of_the_same_recipe_do_not_differ():
    rng = np.random.default_rng(4)
    labels = (np.random.default_rng(1).random(300) < 0.4).astype(float)
    p = [compare_seeds(*paired(rng, labels, 5, (1.0, 1.0), 0.3)).p for _ in range(100)]
    assert np.mean(np.array(p) < 0.05) <= 0.10  # binomial(100, .05) exceeds 10 with probability .01


def test_pairing_takes_out_what_the_seeds_have_in_common():
    """By hand: the variance of the differences over K, beside that of the users; Welch's sum would be far larger."""
    rng = np.random.default_rng(6)
    labels = (np.random.default_rng(1).random(400) < 0.4).astype(float)
    first, second = paired(rng, labels, 6, (1.2, 1.0), 0.4)
    got = compare_seeds(first, second)
    differences = [first[k].values.mean() - second[k].values.mean() for k in range(6)]
    assert got.error_of_seeds**2 == pytest.approx(np.var(differences, ddof=1) / 6)
    assert got.standard_error**2 == pytest.approx(got.error_of_users**2 + got.error_of_seeds**2)
    assert got.seeds == 6
    other = compare_seeds(first, {k + 10: run for k, run in second.items()})
    assert other.error_of_seeds > 3 * got.error_of_seeds
    assert other.difference == pytest.approx(got.difference)


@pytest.mark.parametrize("seeds", [2, 3, 8])
@pytest.mark.parametrize("half", [0.01, 0.002, 0.0008, 0.00002])
def test_effort_is_enough_and_not_more(seeds, half):
    """Fed back into the interval, by the t distribution at Welch and Satterthwaite's degrees of freedom."""
    u, d = 0.0007, 0.0009
    parts = {"error_of_users": u, "error_of_seeds": d, "seeds": seeds}
    found = Comparison(difference=0, standard_error=1, low=0, high=0, p=1, **parts)

    def interval(times: float, k: int) -> float:
        of_users, of_seeds = u**2 / times, d**2 * seeds / k
        freedom = (of_users + of_seeds) ** 2 / (of_seeds**2 / (k - 1))
        return stats.t(freedom).ppf(0.975) * math.sqrt(of_users + of_seeds)

    times, k = found.effort(half)
    assert interval(times, k) <= half
    assert k == 2 or interval(times, k - 1) > half
    assert times == 1 or interval(times / 1.11, max(100, k)) > half
    assert k <= 100 or d * 1.96 * math.sqrt(seeds / 100) > half / 2
    assert Comparison(difference=0, standard_error=u, low=0, high=0, p=1, error_of_users=u).effort(half) is None


def test_the_same_recipe_with_other_seeds_does_not_differ():
    """At 5 %, no more than chance finds a difference, although single pairs of seeds differ a lot."""
    rng = np.random.default_rng(3)
    labels = (np.random.default_rng(1).random(300) < 0.4).astype(float)
    p = [compare_seeds(runs(rng, labels, 3, 1.0, 0.2), runs(rng, labels, 3, 1.0, 0.2)).p for _ in range(100)]
    assert np.mean(np.array(p) < 0.05) <= 0.10  # binomial(100, .05) exceeds 10 with probability .01


def test_one_seed_each_would_find_differences_that_are_not_there():
    """Why studies need seeds: the users' part alone takes a seed's luck for a recipe's merit."""
    rng = np.random.default_rng(3)
    labels = (np.random.default_rng(1).random(300) < 0.4).astype(float)
    p = [compare_seeds(runs(rng, labels, 1, 1.0, 0.2), runs(rng, labels, 1, 1.0, 0.2)).p for _ in range(60)]
    assert np.mean(np.array(p) < 0.05) > 0.15


def test_a_better_recipe_is_found():
    rng = np.random.default_rng(5)
    labels = (np.random.default_rng(1).random(600) < 0.4).astype(float)
    recipes = {name: runs(rng, labels, 4, strength, 0.05) for name, strength in (("a", 1.0), ("b", 1.0), ("c", 1.6))}
    found = pairwise(recipes, list(combinations(recipes, 2)))
    assert found["a", "c"].p < 0.01
    assert found["b", "c"].high < 0
    assert found["a", "b"].p > 0.05


@pytest.mark.parametrize("positives", [1, 4])
def test_a_class_of_one_row_says_nothing(positives):
    labels = (np.arange(5) < positives).astype(float)
    got = delong(labels, np.arange(5.0), np.arange(5.0)[::-1])
    assert (got.p, got.low, got.high) == (1, -1, 1)
    assert holm([0.01, got.p, 0.04]).tolist() == [0.03, 1, 0.08]


def means_of_users(rng: np.random.Generator, seeds: int, luck: float, users: float, both: float) -> dict:
    """Runs whose value is a mean over 150 users: luck of a seed, of users under all seeds, of users under one seed."""
    N, R = 150, 150
    of_user_N, drawn_RN = rng.normal(0, users, N), np.random.default_rng(7).multinomial(N, np.full(N, 1 / N), R) / N
    found = {}
    for seed in range(seeds):
        x_N = rng.normal(0, luck) + of_user_N + rng.normal(0, both, N)
        found[seed] = BootstrappedAuc(("x",), np.array([x_N.mean()]), (drawn_RN @ x_N)[:, None])
    return found


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(
    ("luck", "users", "both"), [(0.1, 0.1, 0.1), (0.0, 0.0, 1.0), (0.0, 1.0, 0.3), (0.1, 0.0, 1.0)]
)
def test_equal_recipes_differ_at_five_percent_whatever_the_noise_is(paired, luck, users, both):
    """Luck of users under one seed alone once was counted twice: then 1 % instead of 5 % differed."""
    rng = np.random.default_rng(11)

    def p_value() -> float:
        sides = [means_of_users(rng, 5, luck, users, both) for _ in range(2)]
        second = sides[1] if paired else {seed + 9: run for seed, run in sides[1].items()}
        return compare_seeds(sides[0], second).p

    share = np.mean([p_value() < 0.05 for _ in range(400)])
    assert 0.022 <= share <= 0.085  # 5 % +- 3 standard deviations


def test_variance_of_the_mixed_comparison_is_the_sum_of_its_parts():
    rng = np.random.default_rng(0)
    names = ("x", "y")
    first, second = ([BootstrappedAuc(names, rng.random(2), rng.random((50, 2))) for _ in range(k)] for k in (3, 2))
    got = compare_seeds(dict(enumerate(first)), dict(enumerate(second)))
    draws = np.mean([r.resampled for r in first], axis=(0, 2)) - np.mean([r.resampled for r in second], axis=(0, 2))
    between = [np.var([r.values.mean() for r in side], ddof=1) / len(side) for side in (first, second)]
    both = [
        np.mean(np.var([r.resampled.mean(axis=1) for r in side], axis=0, ddof=1)) / len(side) - spread
        for side, spread in zip((first, second), between, strict=True)
    ]
    seeds = sum(max(spread - max(part, 0), 0) for spread, part in zip(between, both, strict=True))
    assert got.standard_error**2 == pytest.approx(draws.var(ddof=1) + seeds)
    assert got.error_of_users**2 == pytest.approx(max(draws.var(ddof=1) - sum(max(part, 0) for part in both), 0))
    assert got.difference == pytest.approx(np.mean([r.values for r in first]) - np.mean([r.values for r in second]))

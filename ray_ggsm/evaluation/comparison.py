"""Tests of AUC differences: DeLong's for one pair of runs, a mixed comparison over seeds, and Holm's correction.

Shapes: N rows, m positives, n negatives, K seeds, R resamples, L labels.
"""

import bisect
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ray_ggsm.config import Record
from ray_ggsm.evaluation.metrics import BootstrappedAuc, defined

MANY_SEEDS = 100
"""Number of seeds up to which `effort` asks for seeds rather than for users."""


class Comparison(Record):
    """`first - second`."""

    difference: float
    standard_error: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    p: float
    """Two-sided p value; 1 if there is no difference at all."""
    error_of_users: float = 0.0
    """The part of the standard error that other test users would change."""
    error_of_seeds: float = 0.0
    """The part that other seeds would change."""
    seeds: int = 1
    """Number of paired seeds, or else of the side with fewer among those with several."""

    def effort(self, half: float, share: float = 1.0) -> tuple[float, int] | None:
        """What a 95 % interval of +-`half` would take, by the measured parts: how many times the test users, and how
        many seeds on those. None if the seeds' part is unknown. `share`: the number of test users, if the parts were
        measured on others, over the number of those.

        Test users are added where MANY_SEEDS are not enough without them; more seeds are asked for only where these are
        too few for any number of users.
        """
        if self.seeds < 2:
            return None
        alone = 2 * self.seeds * (self.error_of_seeds * 1.96 / half) ** 2  # the seeds' part has half of the variance
        users, most = 1.0, max(MANY_SEEDS, math.ceil(alone))
        while self._half(users * share, most) > half:
            users *= 1.1
        seeds = range(2, most + 1)
        return users, seeds[bisect.bisect_left(seeds, True, key=lambda k: self._half(users * share, k) <= half)]

    def _half(self, users: float, seeds: int) -> float:
        """Half of the interval with so many times the users and so many paired seeds."""
        of_users, of_seeds = self.error_of_users**2 / users, self.error_of_seeds**2 * self.seeds / seeds
        variance = of_users + of_seeds
        return _half_interval(math.sqrt(variance), _freedom(variance, of_seeds**2 / (seeds - 1)))


def delong(labels_N: np.ndarray, first_N: np.ndarray, second_N: np.ndarray) -> Comparison:
    """DeLong's test of two AUCs on the same rows (DeLong et al., 1988; midranks as in Sun and Xu, 2014).

    It takes rows as independent. If a user has several rows, the standard error is too small: use `compare_seeds` or
    the bootstrap instead.

    Args:
        labels_N: 1, 0 or NaN (left out).
        first_N: scores of the first encoder's probe, finite.
        second_N: scores of the second encoder's probe, finite.

    Returns:
        The comparison; with fewer than two rows of a class nothing can be said: p is 1, and the interval from -1 to 1.
    """
    positive_N, _ = defined(labels_N, first_N)
    scores_2N = np.stack([defined(labels_N, first_N)[1], defined(labels_N, second_N)[1]])
    value_2, positive_2m, negative_2n = _placements(positive_N, scores_2N)
    if min(positive_2m.shape[1], negative_2n.shape[1]) < 2:  # one row has no variance
        return _unknown(float(value_2[0] - value_2[1]))
    covariance = np.cov(positive_2m) / positive_2m.shape[1] + np.cov(negative_2n) / negative_2n.shape[1]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return _tested(float(value_2[0] - value_2[1]), math.sqrt(max(variance, 0.0)), math.inf)


Runs = Mapping[int, BootstrappedAuc]
"""Seed -> AUCs of the run with that seed; all with equal rows, resamples and bootstrap seed."""


def compare_seeds(first: Runs, second: Runs) -> Comparison:
    """Compare the mean AUCs of two recipes, each trained with several seeds and scored on the same test rows.

    Seeds and test users are both random. The variance of the difference of means is the variance between seeds over
    their number, plus what users add to all seeds alike. Runs with the same seed share initial weights, order and
    dropout as far as the recipes allow; so if both sides have the same seeds, those are paired, and the variance is
    that of the K differences. Otherwise it is the sum of both sides' variances, and a side with one seed adds none.
    Degrees of freedom follow Welch and Satterthwaite, with the users' part taken as known.

    That users are lucky for one seed and not for another is in the variance between seeds, and also in that of the mean
    over the user bootstrap (whose draws are the same for all runs). It is counted once:

        both = mean_R(var_K d_RK) - var_K(d_K),   variance = var_R(mean_K d_RK) + max(var_K(d_K) - both, 0) / K

    for the resampled values d_RK and the values d_K of what is paired, or of each side.
    """
    sides = [[runs[seed] for seed in sorted(runs)] for runs in (first, second)]
    values = [np.array([float(run.values.mean()) for run in runs]) for runs in sides]
    draws = [np.stack([run.resampled.mean(axis=1) for run in runs], axis=1) for runs in sides]
    users = float(np.nanvar(draws[0].mean(axis=1) - draws[1].mean(axis=1), ddof=1))
    if first.keys() == second.keys():
        values_of, draws_of = [values[0] - values[1]], [draws[0] - draws[1]]
    else:
        values_of, draws_of = values, draws
    parts_of = [(v, d) for v, d in zip(values_of, draws_of, strict=True) if len(v) > 1]
    users_alone, seeds, squares = users, 0.0, 0.0
    for value_K, draw_RK in parts_of:
        K, spread, both = len(value_K), float(value_K.var(ddof=1)), _of_both(value_K, draw_RK)
        users_alone -= both / K
        if spread > both:
            seeds, squares = seeds + (spread - both) / K, squares + (spread / K) ** 2 / (K - 1)
    total, users_alone = users + seeds, max(users_alone, 0.0)
    found = _tested(float(np.mean(values[0]) - np.mean(values[1])), math.sqrt(total), _freedom(total, squares))
    parts = {"error_of_users": math.sqrt(users_alone), "error_of_seeds": math.sqrt(total - users_alone)}
    return found.model_copy(update={**parts, "seeds": min((len(v) for v, _ in parts_of), default=1)})


def _of_both(value_K: np.ndarray, draw_RK: np.ndarray) -> float:
    """The variance that seeds and users have together: users are lucky for some seeds only."""
    return max(float(np.nanmean(draw_RK.var(axis=1, ddof=1))) - float(value_K.var(ddof=1)), 0.0)


def pairwise(runs: Mapping[str, Runs], pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Comparison]:
    """`compare_seeds` for these pairs of recipes, with p values after Holm's correction over them."""
    comparisons = [compare_seeds(runs[a], runs[b]) for a, b in pairs]
    corrected = holm([comparison.p for comparison in comparisons]).tolist()
    return {
        pair: comparison.model_copy(update={"p": p})
        for pair, comparison, p in zip(pairs, comparisons, corrected, strict=True)
    }


def holm(p_values: Sequence[float]) -> np.ndarray:
    """The p values after Holm's correction for their number (Holm, 1979), in the given order."""
    p_X = np.asarray(p_values, dtype=float)
    order = np.argsort(p_X, kind="stable")
    steps = np.maximum.accumulate(p_X[order] * np.arange(len(p_X), 0, -1))
    corrected_X = np.empty(len(p_X))
    corrected_X[order] = np.minimum(steps, 1.0)
    return corrected_X


def _half_interval(error: float, freedom: float) -> float:
    """Half of the 95 % interval."""
    distribution = stats.norm if math.isinf(freedom) else stats.t(freedom)
    return float(distribution.ppf(0.975)) * error


def _freedom(variance: float, squares: float) -> float:
    """Welch and Satterthwaite's degrees of freedom; `squares`: the sum over the seeds' parts of part**2 / its own."""
    return variance**2 / squares if squares else math.inf


def _unknown(difference: float) -> Comparison:
    """A difference whose error cannot be known: it may be anything."""
    return Comparison(difference=difference, standard_error=1.0, low=-1.0, high=1.0, p=1.0)


def _tested(difference: float, error: float, freedom: float) -> Comparison:
    if error == 0:
        p = 1.0 if difference == 0 else 0.0
        return Comparison(difference=difference, standard_error=0.0, low=difference, high=difference, p=p)
    distribution = stats.norm if math.isinf(freedom) else stats.t(freedom)
    half = _half_interval(error, freedom)
    p = 2 * float(distribution.sf(abs(difference) / error))
    return Comparison(difference=difference, standard_error=error, low=difference - half, high=difference + half, p=p)


def _placements(positive_N: np.ndarray, scores_2N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AUCs, and DeLong's structural components: the share of the other class that each row is above or below."""
    m, n = int(positive_N.sum()), int((~positive_N).sum())
    together_2N = stats.rankdata(scores_2N, axis=1)
    positive_2m = (together_2N[:, positive_N] - stats.rankdata(scores_2N[:, positive_N], axis=1)) / n
    negative_2n = 1 - (together_2N[:, ~positive_N] - stats.rankdata(scores_2N[:, ~positive_N], axis=1)) / m
    return positive_2m.mean(axis=1), positive_2m, negative_2n

"""AUC, KS, average precision, log-loss, Brier score, and confidence intervals of AUCs.

Intervals come from a bootstrap over *users*, not rows, because the snapshots of one person are not independent. With
equal seeds and equal `users_N`, every resample draws the same users for every label and encoder, so differences of
two `BootstrappedAuc` are paired. Tests of differences are in `ray_ggsm.evaluation.comparison`.

Shapes: N rows, U users, L labels, R resamples, S distinct scores.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from sklearn import metrics as sk

MEAN = "mean"
"""Key, beside the labels, of the mean over all labels."""
_CHUNK = 8_000_000
"""Numbers that the bootstrap holds in memory at once."""

Value = TypeVar("Value")
ByLabel = dict[str, dict[str, dict[str, Value]]]
"""Name of vectors ("encoder", "untrained", ...) -> probe -> label -> value."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BootstrappedAuc:
    """AUCs of one probe on one encoder's vectors, over all users and over resampled users."""

    names: tuple[str, ...]
    """Labels."""
    values: np.ndarray
    """(L,) AUCs on all rows."""
    resampled: np.ndarray
    """(R, L) AUCs of the resamples; NaN where a resample drew one class only."""

    def intervals(self) -> dict[str, Estimate]:
        """Label, and "mean" -> AUC with its 95 % percentile interval."""
        return _estimates(self.names, self.values, self.resampled)


def defined(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (bool) and scores of the rows whose label is defined."""
    defined_N = ~np.isnan(labels_N)
    return labels_N[defined_N] == 1, scores_N[defined_N]


def auc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Area under the ROC curve; rows with the label NaN are left out."""
    return float(sk.roc_auc_score(*defined(labels_N, scores_N)))


def ks(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance between the scores of positives and negatives: max of TPR - FPR."""
    false_S, true_S, _ = sk.roc_curve(*defined(labels_N, scores_N), drop_intermediate=False)
    return float(np.max(true_S - false_S))


def average_precision(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Area under the precision-recall curve, without interpolation."""
    return float(sk.average_precision_score(*defined(labels_N, scores_N)))


def log_loss(labels_N: np.ndarray, probabilities_N: np.ndarray) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-15 away from 0 and 1."""
    positive_N, probability_N = defined(labels_N, probabilities_N)
    probability_N = np.clip(probability_N.astype(np.float64), 1e-15, 1 - 1e-15)
    return float(sk.log_loss(positive_N, probability_N, labels=[False, True]))


def brier(labels_N: np.ndarray, probabilities_N: np.ndarray) -> float:
    """Mean squared difference of probabilities and outcomes; 0 is best."""
    return float(sk.brier_score_loss(*defined(labels_N, probabilities_N)))


def calibration(labels_N: np.ndarray, probabilities_N: np.ndarray, bins: int = 10) -> np.ndarray:
    """Mean prediction, observed rate and number of rows per bin, (bins, 3); all bins have about as many rows."""
    positive_N, probability_N = defined(labels_N, probabilities_N)
    order_N = np.argsort(probability_N, kind="stable")
    parts = [part for part in np.array_split(order_N, bins) if len(part)]
    return np.array([[probability_N[part].mean(), positive_N[part].mean(), len(part)] for part in parts])


def bootstrap_aucs(
    labels: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], users_N: np.ndarray, resamples: int, seed: int
) -> BootstrappedAuc:
    """AUC of every label over R draws of U users with replacement.

    Args:
        labels: label -> (N,) of 1, 0, NaN (left out).
        scores: label -> (N,), finite.
        users_N: the user of each row.
        resamples: number of draws R.
        seed: equal seeds and users give equal draws, whatever the labels and scores are.
    """
    assert labels.keys() == scores.keys()
    assert all(len(users_N) == len(labels[name]) == len(scores[name]) for name in labels)
    _, user_N = np.unique(users_N, return_inverse=True)
    resampled_RL = np.empty((resamples, len(labels)))
    ranked = [_rank(labels[name], scores[name]) for name in labels]
    start = 0
    for weights_CU in _user_weights(int(user_N.max()) + 1, len(users_N), resamples, seed):
        rows = slice(start, start + len(weights_CU))
        for column, (order_K, positive_K, first_S) in enumerate(ranked):
            resampled_RL[rows, column] = _weighted_auc(weights_CU[:, user_N[order_K]], positive_K, first_S)
        start = rows.stop
    value_L = np.array([auc(labels[name], scores[name]) for name in labels])
    return BootstrappedAuc(tuple(labels), value_L, resampled_RL)


def paired_difference(first: BootstrappedAuc, second: BootstrappedAuc) -> dict[str, Estimate]:
    """Label, and "mean" -> `first - second`; both must come from the same rows, seed and resamples."""
    assert first.names == second.names
    assert first.resampled.shape == second.resampled.shape
    return _estimates(first.names, first.values - second.values, first.resampled - second.resampled)


def _estimates(names: tuple[str, ...], value_L: np.ndarray, resampled_RL: np.ndarray) -> dict[str, Estimate]:
    tail = (1 - 0.95) / 2
    value_X = np.append(value_L, value_L.mean())
    resampled_RX = np.column_stack([resampled_RL, resampled_RL.mean(axis=1)])
    low_X, high_X = np.nanquantile(resampled_RX, [tail, 1 - tail], axis=0)
    return {
        name: Estimate(float(value), float(low), float(high))
        for name, value, low, high in zip((*names, MEAN), value_X, low_X, high_X, strict=True)
    }


def _user_weights(users: int, rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample draws each user; C resamples at a time, so that C * N numbers fit in memory."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // rows)
    for start in range(0, resamples, step):
        draws = [
            np.bincount(rng.integers(0, users, users), minlength=users) for _ in range(min(step, resamples - start))
        ]
        yield np.stack(draws).astype(np.float32)


def _rank(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a label in ascending order of score, which are positive, and where each distinct score begins."""
    rows_K = np.flatnonzero(~np.isnan(labels_N))
    order_K = rows_K[np.argsort(scores_N[rows_K], kind="stable")]
    first_S = np.flatnonzero(np.append(True, np.diff(scores_N[order_K]) > 0))
    return order_K, labels_N[order_K] == 1, first_S


def _weighted_auc(weights_CK: np.ndarray, positive_K: np.ndarray, first_S: np.ndarray) -> np.ndarray:
    """AUC of rows that count `weights` times; ties count one half (the Mann-Whitney form)."""
    positive_CS = np.add.reduceat(weights_CK * positive_K, first_S, axis=1, dtype=np.float64)
    negative_CS = np.add.reduceat(weights_CK * ~positive_K, first_S, axis=1, dtype=np.float64)
    below_CS = np.cumsum(negative_CS, axis=1) - negative_CS / 2
    pairs_C = positive_CS.sum(axis=1) * negative_CS.sum(axis=1)
    wins_C = (positive_CS * below_CS).sum(axis=1)
    return np.divide(wins_C, pairs_C, out=np.full(len(pairs_C), np.nan), where=pairs_C > 0)

"""Scores of rows by probes that were fitted on other users: users are dealt to folds.

Shapes: N rows, L labels, F folds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.metrics import BootstrappedAuc, bootstrap_aucs
from ray_ggsm.evaluation.results import Probed
from ray_ggsm.hashing import bucket_of

ProbeAll = Callable[[ProbeConfig, int, Mapping[str, ProbeData]], Probed]
"""Fits all probes (`ray_ggsm.on_ray.probing.probes.probe_all`): config, seed, and data by name."""


def folds_of(users: Sequence[str] | np.ndarray, folds: int) -> np.ndarray:
    """The fold of each row, int (N,); the same for all rows of a user, in all data."""
    fold_N: np.ndarray = bucket_of(pa.array(users), folds)
    return fold_N


def cross_fitted(
    rows: Aligned,
    fit_N: np.ndarray,
    score_N: np.ndarray,
    labels: Sequence[str],
    config: ProbeConfig,
    seed: int,
    probe_all: ProbeAll,
) -> dict[str, np.ndarray]:
    """Label -> (N,) scores of the rows `score_N` (bool) by probes on rows `fit_N` of other folds; NaN elsewhere."""
    fold_N = folds_of(rows.users, config.folds)
    parts = {fold: score_N & (fold_N == fold) for fold in range(config.folds)}
    data = {
        str(fold): ProbeData(_part(rows, fit_N & (fold_N != fold), labels), _part(rows, mine_N, labels))
        for fold, mine_N in parts.items()
    }
    probed = probe_all(config, seed, data)
    found = {label: np.full(len(score_N), np.nan, dtype=np.float32) for label in labels}
    for fold, mine_N in parts.items():
        for label, result in probed[str(fold), config.kinds[0]].items():
            found[label][mine_N] = result.scores
    return found


def by_fold(
    labels: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray], fold_N: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Labels (NaN outside of the fold) and scores, each as often as there are folds, one label after the other.

    The probes of folds have scales of their own, so scores of several folds must not be ranked together.
    """
    folds = np.unique(fold_N)
    names = {f"{label} {fold}": (label, fold) for label in labels for fold in folds}
    truth = {name: np.where(fold_N == fold, labels[label], np.nan) for name, (label, fold) in names.items()}
    return truth, {name: scores[label] for name, (label, _) in names.items()}


def mean_over_folds(
    labels: Mapping[str, np.ndarray],
    scores: Mapping[str, np.ndarray],
    users: np.ndarray,
    fold_N: np.ndarray,
    resamples: int,
    seed: int,
) -> BootstrappedAuc:
    """AUCs that are means over the folds; arguments as of `bootstrap_aucs`, which draws users.

    Where a draw leaves a fold without one of the classes, its mean is over the other folds.
    """
    each = bootstrap_aucs(*by_fold(labels, scores, fold_N), users, resamples, seed)
    shape = (len(labels), -1)
    of_folds_RLF = np.ma.masked_invalid(each.resampled.reshape(len(each.resampled), *shape))
    resampled_RL = of_folds_RLF.mean(axis=2).filled(np.nan)
    return BootstrappedAuc(tuple(labels), each.values.reshape(shape).mean(axis=1), resampled_RL)


def _part(rows: Aligned, which_N: np.ndarray, labels: Sequence[str]) -> Aligned:
    return replace(
        rows,
        vectors=rows.vectors[which_N],
        labels={label: rows.labels[label][which_N] for label in labels},
        users=rows.users[which_N],
    )

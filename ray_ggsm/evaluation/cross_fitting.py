"""Scores of rows by probes that were fitted on other users: users are dealt to folds.

Shapes: N rows, L labels, F folds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import ProbeConfig
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


def _part(rows: Aligned, which_N: np.ndarray, labels: Sequence[str]) -> Aligned:
    return replace(
        rows,
        vectors=rows.vectors[which_N],
        labels={label: rows.labels[label][which_N] for label in labels},
        users=rows.users[which_N],
    )

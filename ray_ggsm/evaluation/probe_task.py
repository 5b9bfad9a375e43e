"""What one probe of one label is fitted on, and what it gives.

Shapes: N rows to fit on, K of them with a label, M rows to score, D vector width, U users.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ray_ggsm.config import InputError

Folds = list[tuple[np.ndarray, np.ndarray]]
"""Per fold the positions, among the K rows, of its rows to fit on and of its held-out rows."""


@dataclass(frozen=True)
class ProbeTask:
    """Vectors, one label and folds. The matrices are only read, so that the tasks of many labels can share them."""

    fit_ND: np.ndarray
    """Vectors to fit on; rows without a label are among them."""
    rows_K: np.ndarray
    """Positions of the rows with a label."""
    positive_K: np.ndarray
    """Their labels, bool."""
    folds: Folds
    score_MD: np.ndarray
    """Vectors to score."""

    @property
    def label_K(self) -> np.ndarray:
        """The labels as 1.0 and 0.0, float64."""
        return self.positive_K.astype(float)


class Probe(Protocol):
    """A fitted probe."""

    def scores(self, vectors_MD: np.ndarray) -> np.ndarray:
        """Scores of vectors, (M,); higher means more likely positive."""


@dataclass(frozen=True)
class ProbeFit:
    """What fitting gives."""

    scores_M: np.ndarray
    """Scores; higher means more likely positive."""
    cv_auc: float
    """Mean AUC over the held-out rows of the folds, at the chosen hyperparameters."""
    hyperparameters: dict[str, float]
    """What cross-validation chose."""
    probe: Probe | None = None
    """What gave the scores; None for a kind that is not kept."""


def grouped_folds(positive_K: np.ndarray, users_K: np.ndarray, folds: int, seed: int, label: str) -> Folds:
    """Folds that share no user, with positives spread evenly and both classes in every fold.

    Users are dealt to the folds in the order of their share of positives, ties shuffled.

    Args:
        positive_K: labels, bool.
        users_K: the user of each row.
        folds: number of folds.
        seed: seed of the shuffle.
        label: name of the label in errors.

    Raises:
        InputError: fewer users have a positive row, or a negative one, than there are folds.
    """
    _, user_K = np.unique(users_K, return_inverse=True)
    if not len(user_K):
        raise InputError(f"label '{label}', rows to fit on: no row has a value; check the label's definition")
    share_U = np.bincount(user_K, weights=positive_K) / np.bincount(user_K)
    with_positive, with_negative = int((share_U > 0).sum()), int((share_U < 1).sum())
    if min(with_positive, with_negative) < folds:
        raise InputError(
            f"label '{label}', rows to fit on: {with_positive} users have a positive row and {with_negative} a "
            f"negative one, but {folds} folds need {folds} of each; use more users, fewer folds, or leave the label out"
        )
    shuffled_U = np.random.default_rng(seed).permutation(len(share_U))
    dealt_U = shuffled_U[np.argsort(share_U[shuffled_U], kind="stable")]
    fold_U = np.empty(len(share_U), dtype=np.int64)
    fold_U[dealt_U] = np.arange(len(share_U)) % folds
    fold_K = fold_U[user_K]
    return [(np.flatnonzero(fold_K != fold), np.flatnonzero(fold_K == fold)) for fold in range(folds)]

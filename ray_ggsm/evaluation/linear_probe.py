"""The linear probe: logistic regression on standardised vectors, its strength chosen by cross-validation.

Before standardisation every vector passes `signed_log`, which tames counts and amounts with long tails and leaves
L2-normalised embeddings nearly as they are. Beside the shared matrix the probe holds one standardised copy of its rows.

Shapes: N rows to fit on, K of them with a label, M rows to score, D vector width, F folds, C strengths.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from ray_ggsm.evaluation import metrics
from ray_ggsm.evaluation.config import LinearConfig
from ray_ggsm.evaluation.probe_task import ProbeFit, ProbeTask
from ray_ggsm.numerics import signed_log

ROWS_AT_ONCE = 1024
"""Number of rows that are standardised at once, so that they stay in the processor's cache."""


# Some BLAS kernels raise the processor's "invalid" flag for values that they compute and throw away (numpy issues 13173
# and 24067), and NumPy then warns of a matrix product that is right. So the flag is not read here; the scores are.
_QUIET = np.errstate(invalid="ignore")


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe."""

    mean_D: np.ndarray
    """float64: mean of the signed logarithms."""
    scale_D: np.ndarray
    """float64: their standard deviation; 1 where they are all equal."""
    weight_1D: np.ndarray
    """float32: coefficients of the standardised vectors."""
    bias_1: np.ndarray
    """float32."""

    @_QUIET
    def scores(self, vectors_MD: np.ndarray) -> np.ndarray:
        """Log-odds, (M,), as scikit-learn's models give them."""
        scaler = StandardScaler()
        scaler.mean_, scaler.scale_, scaler.n_features_in_ = self.mean_D, self.scale_D, len(self.mean_D)
        standard_MD, _ = standardised(vectors_MD, np.arange(len(vectors_MD)), scaler)
        found_M: np.ndarray = (standard_MD @ self.weight_1D.T + self.bias_1).reshape(-1)
        return found_M


@_QUIET
def fit_linear(task: ProbeTask, config: LinearConfig) -> ProbeFit:
    """Choose a strength over the folds, fit it on all rows with a label, and score in log-odds.

    Raises:
        FloatingPointError: a score is not finite.
    """
    strengths = sorted(config.strengths)
    auc_FC = np.empty((len(task.folds), len(strengths)))
    for fold, (fit, held_out) in enumerate(task.folds):
        fit_KD, scaler = standardised(task.fit_ND, task.rows_K[fit])
        held_out_KD, _ = standardised(task.fit_ND, task.rows_K[held_out], scaler)
        for column, model in enumerate(_path(fit_KD, task.positive_K[fit], strengths, config)):
            auc_FC[fold, column] = metrics.auc(task.label_K[held_out], model.decision_function(held_out_KD))
        del fit_KD, held_out_KD  # before the next fold's copies are made
    best = int(auc_FC.mean(axis=0).argmax())
    fit_KD, scaler = standardised(task.fit_ND, task.rows_K)
    (model,) = _path(fit_KD, task.positive_K, [strengths[best]], config)
    chosen = {"C": strengths[best], "iterations": int(model.n_iter_[0])}
    probe = LinearProbe(scaler.mean_, scaler.scale_, model.coef_, model.intercept_)
    scores_M = probe.scores(task.score_MD)
    if not np.isfinite(scores_M).all():
        wrong = np.flatnonzero(~np.isfinite(scores_M))
        raise FloatingPointError(
            f"the linear probe gave {len(wrong):,} scores that are not finite (the first at row {wrong[0]}); "
            "both the vectors and the solution of the logistic regression must be finite"
        )
    return ProbeFit(scores_M, float(auc_FC.mean(axis=0)[best]), chosen, probe)


def standardised(
    vectors_ND: np.ndarray, rows_K: np.ndarray, scaler: StandardScaler | None = None
) -> tuple[np.ndarray, StandardScaler]:
    """(K, D) float32 signed logarithms of these rows, standardised by `scaler`; by default a scaler fitted on them."""
    standard_KD = np.empty((len(rows_K), vectors_ND.shape[1]), np.float32)
    parts = [slice(start, start + ROWS_AT_ONCE) for start in range(0, len(rows_K), ROWS_AT_ONCE)]
    for part in parts:
        standard_KD[part] = signed_log(vectors_ND[rows_K[part]].astype(np.float32, copy=False))
    if scaler is None:
        scaler = StandardScaler()
        for part in parts:
            scaler.partial_fit(standard_KD[part])
    return scaler.transform(standard_KD, copy=False), scaler


def _path(
    vectors_KD: np.ndarray, positive_K: np.ndarray, strengths: list[float], config: LinearConfig
) -> Iterator[LogisticRegression]:
    """Models of rising strength; each fit starts at the solution of the one before."""
    model = LogisticRegression(warm_start=True, max_iter=config.max_iterations, tol=config.tolerance)
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are reported in `hyperparameters`
            yield model.set_params(C=strength).fit(vectors_KD, positive_K)

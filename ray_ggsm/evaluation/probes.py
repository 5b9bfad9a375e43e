"""Probes: classifiers on frozen vectors, which show how much the vectors say about a label.

The kinds are in `linear_probe`, `lightgbm_probe` and `mlp_probe`. Folds never split a user. Every choice is made on the
rows to fit on; the test rows are scored once.

Shapes: N rows to fit on, M rows to score, D vector width.
"""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from ray_ggsm.evaluation import metrics
from ray_ggsm.evaluation.alignment import check_two_classes
from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.lightgbm_probe import fit_lightgbm
from ray_ggsm.evaluation.linear_probe import fit_linear
from ray_ggsm.evaluation.probe_task import Probe, ProbeFit, ProbeTask, grouped_folds


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found about one label."""

    scores: np.ndarray
    """(M,) float32 scores of all rows, also where the label is undefined; higher means more likely positive."""
    auc: float
    """AUC on the scored rows with a label."""
    cv_auc: float
    """Mean AUC over the held-out rows of the folds, at the chosen hyperparameters."""
    hyperparameters: dict[str, float]
    """What cross-validation chose. `iterations` equals `max_iterations` if the last linear fit did not converge."""
    probe: Probe | None = None
    """The fitted probe; None for a kind that is not kept."""


def fit_and_score(
    kind: Kind,
    fit_ND: np.ndarray,
    fit_labels_N: np.ndarray,
    fit_users_N: np.ndarray,
    score_MD: np.ndarray,
    score_labels_M: np.ndarray,
    config: ProbeConfig,
    seed: int,
    *,
    label: str,
) -> ProbeResult:
    """Fit one probe on the rows that have a label, and score other rows, on one thread. The arrays are only read.

    Args:
        kind: kind of probe.
        fit_ND: vectors to fit on, finite.
        fit_labels_N: 1 positive, 0 negative, NaN undefined (left out).
        fit_users_N: the user of each row.
        score_MD: vectors to score, finite.
        score_labels_M: as `fit_labels_N`; only for the AUC.
        config: settings of the probes.
        seed: seed of the folds and of LightGBM; equal inputs and seeds give equal scores.
        label: name of the label in errors.

    Raises:
        InputError: too few users for the folds, or rows to score of one class.
    """
    check_two_classes({label: score_labels_M}, "score")
    rows_K = np.flatnonzero(~np.isnan(fit_labels_N))
    positive_K = fit_labels_N[rows_K] == 1
    folds = grouped_folds(positive_K, fit_users_N[rows_K], config.folds, seed, label)
    task = ProbeTask(fit_ND, rows_K, positive_K, folds, score_MD)
    with threadpool_limits(1):
        fit = _fit(kind, task, config, seed)
    auc = metrics.auc(score_labels_M, fit.scores_M)
    return ProbeResult(fit.scores_M.astype(np.float32), auc, fit.cv_auc, fit.hyperparameters, fit.probe)


def _fit(kind: Kind, task: ProbeTask, config: ProbeConfig, seed: int) -> ProbeFit:
    if kind == "linear":
        return fit_linear(task, config.linear)
    if kind == "mlp":
        from ray_ggsm.evaluation.mlp_probe import fit_mlp  # loads torch, which the others do without

        return fit_mlp(task, config.mlp, seed)
    return fit_lightgbm(task, config.lightgbm, seed)

"""Probes: how much do frozen vectors say about a label?

Two kinds with one signature. `linear` is a logistic regression on standardised vectors, its strength chosen by
cross-validation; `lightgbm` is a small deterministic boosting with early stopping. Folds never split a user. All
choices use the probe rows; the test rows are scored once.

Before it is standardised for the linear probe, every vector passes `signed_log`: that tames counts and amounts with
long tails and leaves L2-normalised embeddings as they are. Trees do not need it.

The vectors are only read, so that the probes of many labels can share one matrix. Beside it a linear probe holds one
standardised copy of its rows, and a LightGBM probe its binned form, a byte a value.

Shapes: N training rows, M test rows, D vector width, U users, K training rows with a label, F folds, C strengths.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ray_ggsm.config import InputError
from ray_ggsm.evaluation import metrics
from ray_ggsm.evaluation.config import Kind, LightGBMConfig, LinearConfig, ProbeConfig
from ray_ggsm.evaluation.labels import check_two_classes

BLOCK_ROWS = 1024
"""Rows that are standardised at once: they stay in the processor's cache."""

Splits = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ProbeResult:
    """One probe of one label."""

    scores: np.ndarray
    """(M,) float32 scores of all test rows, also where the label is undefined; higher is more likely positive."""
    auc: float
    """AUC on the test rows with a label."""
    cv_auc: float
    """Mean AUC over the held-out folds of the probe rows, at the chosen hyperparameters."""
    hyperparameters: dict[str, float]
    """What cross-validation chose; `iterations` reaches `max_iterations` when the last linear fit did not converge."""
    train_rows: int
    """Training rows with a label."""
    test_rows: int
    """Test rows with a label."""


def fit_and_score(
    kind: Kind,
    train_ND: np.ndarray,
    train_labels_N: np.ndarray,
    train_users_N: np.ndarray,
    test_MD: np.ndarray,
    test_labels_M: np.ndarray,
    config: ProbeConfig,
    seed: int,
    threads: int,
    *,
    label: str,
) -> ProbeResult:
    """Fit one probe on the training rows that have a label, and score the test rows. Inputs may be read-only.

    Args:
        kind: which probe.
        train_ND: vectors, finite.
        train_labels_N: 1 positive, 0 negative, NaN undefined (left out).
        train_users_N: who each row belongs to.
        test_MD: vectors, finite.
        test_labels_M: as `train_labels_N`; used for the AUC only.
        config: probe settings.
        seed: of the folds and of LightGBM; equal inputs and seeds give equal scores.
        threads: CPU threads to use.
        label: its name, for errors.

    Raises:
        InputError: fewer users with a positive, or with a negative, than folds; or test rows of one class.
    """
    assert train_ND.shape[1] == test_MD.shape[1]
    assert len(train_ND) == len(train_labels_N) == len(train_users_N)
    check_two_classes({label: test_labels_M}, "score")
    rows_K = np.flatnonzero(~np.isnan(train_labels_N))
    positive_K = train_labels_N[rows_K] == 1
    splits = grouped_folds(positive_K, train_users_N[rows_K], config.folds, seed, label)
    fitted = (train_ND, rows_K, positive_K, splits, test_MD)
    with threadpool_limits(threads):
        if kind == "linear":
            scores_M, cv_auc, chosen = _linear(*fitted, config.linear)
        else:
            scores_M, cv_auc, chosen = _lightgbm(*fitted, config.lightgbm, seed, threads)
    test_auc, test_rows = metrics.auc(test_labels_M, scores_M), int((~np.isnan(test_labels_M)).sum())
    return ProbeResult(scores_M.astype(np.float32), test_auc, cv_auc, chosen, len(rows_K), test_rows)


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + |x|) as float32: logarithmic for large values, the identity for small ones."""
    size = np.abs(values, dtype=np.float32)
    return np.copysign(np.log1p(size, out=size), values, out=size)


def grouped_folds(positive_K: np.ndarray, users_K: np.ndarray, folds: int, seed: int, label: str) -> Splits:
    """(fit rows, held-out rows) per fold: no user in both, positives spread evenly, both classes in every fold.

    Users are dealt to the folds in the order of their share of positives, ties shuffled.
    """
    _, user_K = np.unique(users_K, return_inverse=True)
    if not len(user_K):
        raise InputError(f"label '{label}', rows to fit on: no row has a value; check the label's definition")
    share_U = np.bincount(user_K, weights=positive_K) / np.bincount(user_K)
    with_positive, with_negative = int((share_U > 0).sum()), int((share_U < 1).sum())
    if min(with_positive, with_negative) < folds:
        raise InputError(
            f"label '{label}': of the rows to fit on, {with_positive} users have a positive one and {with_negative} a "
            f"negative "
            f"one, but {folds} folds need {folds} of each; use more users, fewer folds, or leave the label out"
        )
    shuffled_U = np.random.default_rng(seed).permutation(len(share_U))
    dealt_U = shuffled_U[np.argsort(share_U[shuffled_U], kind="stable")]
    fold_U = np.empty(len(share_U), dtype=np.int64)
    fold_U[dealt_U] = np.arange(len(share_U)) % folds
    fold_K = fold_U[user_K]
    return [(np.flatnonzero(fold_K != fold), np.flatnonzero(fold_K == fold)) for fold in range(folds)]


def _linear(
    train_ND: np.ndarray,
    rows_K: np.ndarray,
    positive_K: np.ndarray,
    splits: Splits,
    test_MD: np.ndarray,
    config: LinearConfig,
) -> tuple[np.ndarray, float, dict[str, float]]:
    strengths = sorted(config.strengths)
    auc_FC = np.empty((len(splits), len(strengths)))
    for fold, (fit, held_out) in enumerate(splits):
        fit_KD, scaler = _standardised(train_ND, rows_K[fit])
        held_out_KD, _ = _standardised(train_ND, rows_K[held_out], scaler)
        for column, model in enumerate(_path(fit_KD, positive_K[fit], strengths, config)):
            auc_FC[fold, column] = metrics.auc(positive_K[held_out].astype(float), model.decision_function(held_out_KD))
        del fit_KD, held_out_KD  # before the next ones are made
    best = int(auc_FC.mean(axis=0).argmax())
    train_KD, scaler = _standardised(train_ND, rows_K)
    (model,) = _path(train_KD, positive_K, [strengths[best]], config)
    chosen = {"C": strengths[best], "iterations": int(model.n_iter_[0])}
    test_MD, _ = _standardised(test_MD, np.arange(len(test_MD)), scaler)
    return model.decision_function(test_MD), float(auc_FC.mean(axis=0)[best]), chosen


def _standardised(
    vectors_ND: np.ndarray, rows_K: np.ndarray, scaler: StandardScaler | None = None
) -> tuple[np.ndarray, StandardScaler]:
    """(K, D) signed logarithms of these rows with the scaler's means and scales, by default their own."""
    standard_KD = np.empty((len(rows_K), vectors_ND.shape[1]), np.float32)
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, len(rows_K), BLOCK_ROWS)]
    for block in blocks:
        standard_KD[block] = signed_log(vectors_ND[rows_K[block]])
    if scaler is None:
        scaler = StandardScaler()
        for block in blocks:
            scaler.partial_fit(standard_KD[block])
    return scaler.transform(standard_KD, copy=False), scaler


def _path(
    vectors_KD: np.ndarray, positive_K: np.ndarray, strengths: list[float], config: LinearConfig
) -> Iterator[LogisticRegression]:
    """Models of rising strength; each starts at the last one's solution."""
    model = LogisticRegression(warm_start=True, max_iter=config.max_iterations, tol=config.tolerance)
    for strength in strengths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are reported in `hyperparameters`
            yield model.set_params(C=strength).fit(vectors_KD, positive_K)


def _lightgbm(
    train_ND: np.ndarray,
    rows_K: np.ndarray,
    positive_K: np.ndarray,
    splits: Splits,
    test_MD: np.ndarray,
    config: LightGBMConfig,
    seed: int,
    threads: int,
) -> tuple[np.ndarray, float, dict[str, float]]:
    settings = {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": config.min_rows_per_leaf,
        "feature_fraction": config.feature_fraction,
        "max_bin": config.bins,
        "feature_pre_filter": False,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "seed": seed,
        "verbosity": -1,
    }
    data = _binned(train_ND, rows_K, positive_K, settings)
    rounds, aucs = [], []
    for fit, held_out in splits:
        stop = lgb.early_stopping(config.patience, verbose=False)
        model = lgb.train(
            settings, data.subset(fit), config.max_rounds, valid_sets=[data.subset(held_out)], callbacks=[stop]
        )
        scores = model.predict(train_ND[rows_K[held_out]], num_iteration=model.best_iteration, num_threads=threads)
        aucs.append(metrics.auc(positive_K[held_out].astype(float), scores))
        rounds.append(model.best_iteration)
    final_rounds = max(1, round(float(np.mean(rounds))))
    model = lgb.train(settings, data, final_rounds)
    return model.predict(test_MD, num_threads=threads), float(np.mean(aucs)), {"rounds": final_rounds}


def _binned(train_ND: np.ndarray, rows_K: np.ndarray, positive_K: np.ndarray, settings: dict[str, Any]) -> lgb.Dataset:
    """LightGBM's form of these rows, a byte a value; they are copied only if some rows are left out, and not kept."""
    vectors_KD = train_ND if len(rows_K) == len(train_ND) else train_ND[rows_K]
    return lgb.Dataset(vectors_KD, positive_K.astype(np.float32), params=settings).construct()

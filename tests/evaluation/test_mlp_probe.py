"""The network's probe: without its hidden layer it is logistic regression, and it sees what no line can."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ray_ggsm.evaluation.config import MLPConfig
from ray_ggsm.evaluation.linear_probe import standardised
from ray_ggsm.evaluation.mlp_probe import fit_mlp
from ray_ggsm.evaluation.probe_task import ProbeTask, grouped_folds


def task_of(x_ND: np.ndarray, positive_N: np.ndarray, score_MD: np.ndarray) -> ProbeTask:
    users, rows = np.arange(len(x_ND)).astype(str), np.arange(len(x_ND))
    folds = grouped_folds(positive_N, users, 3, 0, "label")
    return ProbeTask(x_ND, rows, positive_N, folds, score_MD)


def test_without_a_hidden_layer_it_is_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x, score = (rng.normal(size=(n, 4)).astype(np.float32) for n in (600, 50))
    positive = x @ [1.0, -2.0, 0.0, 0.5] + rng.logistic(size=600) > 0
    config = MLPConfig(hidden=0, max_epochs=200, patience=200, learning_rate=0.02, weight_decay=0.0, batch_rows=600)
    found = fit_mlp(task_of(x, positive, score), config, seed=0)
    fit, scaler = standardised(x, np.arange(600))
    expected = LogisticRegression(C=np.inf, tol=1e-8).fit(fit, positive)
    logits = expected.decision_function(standardised(score, np.arange(50), scaler)[0])
    # epochs are chosen by held-out loss, so the fit is nearly at its end, not at it
    assert np.corrcoef(found.scores_M, logits)[0, 1] > 0.999


def test_it_finds_what_no_line_can() -> None:
    rng = np.random.default_rng(1)
    x, score = (rng.normal(size=(n, 2)).astype(np.float32) for n in (2000, 500))
    config = MLPConfig(max_epochs=60, learning_rate=3e-3)
    found = fit_mlp(task_of(x, x[:, 0] * x[:, 1] > 0, score), config, seed=0)
    assert np.mean((found.scores_M > 0) == (score[:, 0] * score[:, 1] > 0)) > 0.9
    assert found.cv_auc > 0.95
    assert found.hyperparameters["epochs"] > 1


@pytest.mark.parametrize("patience", [1, 3])
def test_noise_ends_early(patience: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 30)).astype(np.float32)
    config = MLPConfig(patience=patience, learning_rate=0.01)
    found = fit_mlp(task_of(x, rng.random(500) < 0.5, x[:5]), config, seed=0)
    assert found.hyperparameters["epochs"] <= 5

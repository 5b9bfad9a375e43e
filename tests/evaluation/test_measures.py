import numpy as np
import pytest
from scipy.stats import ks_2samp

from ray_ggsm.evaluation.measures import calibration_of_all, measured, probabilities
from tests.helpers.probes import N, made_up_labels


def test_probabilities() -> None:
    scores = np.array([-2.0, 0.0, 2.0], dtype=np.float32)
    assert probabilities("linear", scores) == pytest.approx(1 / (1 + np.exp(-scores.astype(float))))
    assert probabilities("lightgbm", np.array([0.25], dtype=np.float32)) == pytest.approx([0.25])


def test_measures_against_their_definitions() -> None:
    labels = made_up_labels()
    draw = np.random.default_rng(1)
    probability = {name: draw.random(N) for name in labels}
    found = measured(labels, probability)["b"]
    y, p = labels["b"][7:], probability["b"][7:]
    assert found["KS"] == pytest.approx(ks_2samp(p[y == 1], p[y == 0]).statistic, abs=1e-12)
    assert found["Brier score"] == pytest.approx(np.mean((p - y) ** 2), abs=1e-6)
    assert found["log-loss"] == pytest.approx(-np.mean(np.log(np.where(y == 1, p, 1 - p))), abs=1e-6)
    order = np.argsort(-p)
    hits = y[order] == 1
    assert found["average precision"] == pytest.approx(
        np.mean(np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)), abs=1e-6
    )


def test_true_probabilities_lie_on_the_line() -> None:
    draw = np.random.default_rng(2)
    probability = {name: draw.random(20_000) for name in "ab"}
    labels = {name: (draw.random(20_000) < p).astype(np.float32) for name, p in probability.items()}
    for predicted, observed in calibration_of_all(labels, probability):
        assert observed == pytest.approx(predicted, abs=0.03)

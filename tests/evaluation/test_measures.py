"""Measures beside the AUC, the map of users, and results brought together."""

import numpy as np
import pytest
from ray_ggsm.evaluation.pages.user_map import MOST, user_map
from scipy.stats import ks_2samp

from ray_ggsm.evaluation.comparison import delong, holm
from ray_ggsm.evaluation.labels import Aligned
from ray_ggsm.evaluation.measures import calibration_of_all, measured, probabilities
from ray_ggsm.evaluation.probes import ProbeResult
from ray_ggsm.evaluation.results import by_label, results

N = 301


@pytest.fixture
def labels() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    values = {name: (draw.random(N) < rate).astype(np.float32) for name, rate in {"a": 0.3, "b": 0.6}.items()}
    values["b"][:7] = np.nan
    return values


def test_probabilities() -> None:
    scores = np.array([-2.0, 0.0, 2.0], dtype=np.float32)
    assert probabilities("linear", scores) == pytest.approx(1 / (1 + np.exp(-scores.astype(float))))
    assert probabilities("lightgbm", np.array([0.25], dtype=np.float32)) == pytest.approx([0.25])


def test_measures_against_their_definitions(labels: dict) -> None:
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


def test_map_keeps_rows_and_labels_together() -> None:
    draw = np.random.default_rng(3)
    side = (np.arange(2 * MOST) % 2).astype(np.float32)
    vectors = 0.01 * draw.normal(size=(len(side), 5)).astype(np.float32)
    vectors[:, 3] += side
    found = user_map(vectors, {"side": side}, seed=0)
    assert (found.points.shape, found.rows) == ((MOST, 2), 2 * MOST)
    assert found.variance > 0.9
    assert abs(np.corrcoef(found.points[:, 0], found.labels["side"])[0, 1]) > 0.99


def test_a_collapsed_encoder_has_a_map() -> None:
    found = user_map(np.full((9, 4), 0.5, np.float32), {}, seed=0)
    assert (found.variance, np.ptp(found.points)) == (0, 0)


def test_results_are_those_of_their_parts(labels: dict) -> None:
    draw = np.random.default_rng(4)
    test = Aligned(np.zeros((N, 1), np.float32), labels, np.arange(N).astype(str), 0, 0)

    def probed(strength: float) -> dict[str, ProbeResult]:
        scores = {name: draw.normal(size=N) + strength * np.nan_to_num(y) for name, y in labels.items()}
        return {name: ProbeResult(s.astype(np.float32), 0.5, 0.5, {"C": 1.0}, N, N) for name, s in scores.items()}

    both = {("encoder", "linear"): probed(1.0), ("other", "linear"): probed(0.2)}
    found = results(both, {"encoder": test, "other": test}, seed=0)
    p = [delong(labels[n], both["encoder", "linear"][n].scores, both["other", "linear"][n].scores).p for n in labels]
    assert list(found.delong["other"]["linear"].values()) == pytest.approx(holm(p))
    auc = found.auc["encoder"]["linear"], found.auc["other"]["linear"], found.differences["other"]["linear"]
    for name in (*labels, "mean"):
        assert auc[0][name].value - auc[1][name].value == pytest.approx(auc[2][name].value)
    each = found.measures["other"]["linear"]
    mean = found.mean_measures()["other"]["linear"]["KS"]
    assert mean == pytest.approx((each["a"]["KS"] + each["b"]["KS"]) / 2)
    assert by_label(found, both)["other"]["linear"]["a"]["C"] == 1.0

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ray_ggsm.evaluation import linear_probe
from ray_ggsm.numerics import signed_log
from tests.helpers.probes import planted, run

SCORED = len(planted(seed=1)[0])
"""Rows to score; the folds hold fewer."""


@pytest.mark.parametrize("at_once", [7, 1024])
def test_linear_probe_is_sklearns_pipeline(at_once, monkeypatch):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    monkeypatch.setattr(linear_probe, "ROWS_AT_ONCE", at_once)  # 400 rows: 57 full parts and a rest, or one
    train, test = planted(), planted(seed=1)
    result = run("linear", train, test)
    model = LogisticRegression(C=result.hyperparameters["C"], tol=1e-8)
    reference = make_pipeline(FunctionTransformer(signed_log), StandardScaler(), model).fit(train[0], train[1] == 1)
    np.testing.assert_allclose(result.scores, reference.decision_function(test[0]), atol=2e-2)


def test_linear_probe_survives_long_tails():
    """exp(4 x) of the informative dimension is hopeless for a plain linear model, and read well after the logarithm."""
    (vectors, labels, users), (other, other_labels, _) = planted(), planted(seed=1)
    assert run("linear", (np.exp(4 * vectors), labels, users), (np.exp(4 * other), other_labels)).auc > 0.72


class _RaisesTheFlag(LogisticRegression):
    """Computes inf - inf and throws it away, as a BLAS kernel does with the lanes that pad a matrix."""

    def fit(self, X, y):
        np.float32(np.inf) - np.float32(np.inf)
        return super().fit(X, y)

    def decision_function(self, X):
        np.float32(np.inf) - np.float32(np.inf)
        return super().decision_function(X)


def test_a_flag_without_a_wrong_number_is_no_error(monkeypatch):
    quiet = run("linear", planted(), planted(seed=1))
    monkeypatch.setattr(linear_probe, "LogisticRegression", _RaisesTheFlag)
    np.testing.assert_array_equal(run("linear", planted(), planted(seed=1)).scores, quiet.scores)


def test_a_score_that_is_not_finite_is_an_error(monkeypatch):
    scores = linear_probe.LinearProbe.scores
    wrong = np.arange(SCORED) == 2
    monkeypatch.setattr(
        linear_probe.LinearProbe, "scores", lambda probe, vectors: np.where(wrong, np.nan, scores(probe, vectors))
    )
    with pytest.raises(FloatingPointError, match=r"1 scores that are not finite \(the first at row 2\)"):
        run("linear", planted(), planted(seed=1))


def test_signed_log_of_vectors_is_odd_monotone_and_neutral_for_unit_vectors():
    values = np.linspace(-1e6, 1e6, 1_001, dtype=np.float32)
    np.testing.assert_array_equal(signed_log(values), -signed_log(-values))
    assert (np.diff(signed_log(values)) > 0).all()
    small = np.linspace(-0.05, 0.05, 101, dtype=np.float32)
    assert np.corrcoef(small, signed_log(small))[0, 1] > 0.999


def test_signed_log_keeps_the_bits_of_float32():
    """As the probes computed it in place: the logarithm of float32 sizes with the sign of the value."""
    rng = np.random.default_rng(0)
    huge = np.float32([0, 3e38, -3e38, 1e-45, -1e-45])
    values = np.concatenate([rng.normal(size=9999), rng.normal(size=9999) * np.exp(9 * rng.normal(size=9999))])
    values = np.concatenate([values.astype(np.float32), huge])
    expected = np.copysign(np.log1p(np.abs(values)), values)
    np.testing.assert_array_equal(signed_log(values).view(np.uint32), expected.view(np.uint32))


def test_vectors_of_wider_numbers_are_read_as_float32():
    """Otherwise the choice of a table's number type would move AUCs."""
    (vectors, labels, users), other = planted(), planted(seed=1)
    wide = run("linear", (vectors.astype(np.float64), labels, users), (other[0].astype(np.float64), other[1]))
    np.testing.assert_array_equal(wide.scores, run("linear", (vectors, labels, users), other).scores)

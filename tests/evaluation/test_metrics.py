import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from ray_ggsm.evaluation import metrics


def sample(seed, rows=211, users=53, ties=False):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(np.float32)
    scores = rng.normal(size=rows) + labels
    labels[rng.random(rows) < 0.1] = np.nan
    return labels, np.round(scores) if ties else scores, rng.integers(0, users, rows).astype(str)


@pytest.mark.parametrize("ties", [False, True])
def test_point_metrics_against_their_definitions(ties):
    labels, scores, _ = sample(1, ties=ties)
    positive, negative = scores[labels == 1], scores[labels == 0]
    pairs = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    assert metrics.auc(labels, scores) == pytest.approx(pairs, abs=1e-12)
    assert metrics.ks(labels, scores) == pytest.approx(ks_2samp(positive, negative).statistic, abs=1e-12)
    order = np.argsort(-scores, kind="stable")
    hits = (labels[order] == 1)[~np.isnan(labels[order])]
    if not ties:
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        assert metrics.average_precision(labels, scores) == pytest.approx(precision[hits].mean(), abs=1e-12)


def test_probability_metrics_against_their_definitions():
    labels, scores, _ = sample(4)
    probability, known = 1 / (1 + np.exp(-scores)), ~np.isnan(labels)
    y, p = labels[known].astype(float), probability[known]
    assert metrics.log_loss(labels, probability) == pytest.approx(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())
    assert metrics.brier(labels, probability) == pytest.approx(((p - y) ** 2).mean())
    assert np.isfinite(metrics.log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0])))
    bins = metrics.calibration(labels, probability, 4)
    assert bins[:, 2].sum() == known.sum()
    assert (bins[:, :2] * bins[:, 2:]).sum(axis=0) == pytest.approx([p.sum(), y.sum()])
    assert (np.diff(bins[:, 0]) > 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_every_resample_is_the_auc_of_the_repeated_rows(seed, ties):
    labels, scores, users = sample(seed, rows=61, users=17, ties=ties)
    got = metrics.bootstrap_aucs({"a": labels}, {"a": scores}, users, 3, seed).resampled[:, 0]
    names, user = np.unique(users, return_inverse=True)
    rng = np.random.default_rng(seed)
    for value in got:
        counts = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))[user]
        rows = np.repeat(np.arange(len(users)), counts)
        rows = rows[~np.isnan(labels[rows])]
        if len(set(labels[rows])) == 2:
            assert value == pytest.approx(roc_auc_score(labels[rows], scores[rows]), abs=1e-6)
        else:
            assert np.isnan(value)


def test_chunks_change_nothing(monkeypatch):
    labels, scores, users = sample(3)
    whole = metrics.bootstrap_aucs({"a": labels}, {"a": scores}, users, 23, 5).resampled
    monkeypatch.setattr(metrics, "_CHUNK", 7 * len(users))
    np.testing.assert_array_equal(metrics.bootstrap_aucs({"a": labels}, {"a": scores}, users, 23, 5).resampled, whole)


def test_interval_holds_the_value_and_narrows_with_rows():
    widths = []
    for rows in (200, 3_200):
        labels, scores, users = sample(7, rows=rows, users=rows // 2)
        estimate = metrics.bootstrap_aucs({"a": labels}, {"a": scores}, users, 400, 0).intervals()["a"]
        assert estimate.low < estimate.value < estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)  # 16 times the rows


def test_repeating_every_row_of_a_user_does_not_narrow_the_interval():
    labels, scores, users = sample(11, rows=300, users=300)
    once = metrics.bootstrap_aucs({"a": labels}, {"a": scores}, users, 300, 0)
    thrice = metrics.bootstrap_aucs({"a": np.tile(labels, 3)}, {"a": np.tile(scores, 3)}, np.tile(users, 3), 300, 0)
    np.testing.assert_allclose(once.resampled, thrice.resampled, atol=1e-6)


def test_paired_difference_is_antisymmetric_zero_with_itself_and_narrower_than_unpaired():
    names, rng = ("a", "b"), np.random.default_rng(2)
    drawn = {name: sample(n, rows=700, users=350) for n, name in enumerate(names)}
    users, labels = drawn["a"][2], {name: drawn[name][0] for name in names}
    scores = {name: drawn[name][1] for name in names}
    close = {name: scores[name] + 0.1 * rng.normal(size=700) for name in names}
    first = metrics.bootstrap_aucs(labels, scores, users, 300, 9)
    second = metrics.bootstrap_aucs(labels, close, users, 300, 9)
    there, back = metrics.paired_difference(first, second), metrics.paired_difference(second, first)
    for name in (*names, metrics.MEAN):
        assert there[name].value == pytest.approx(-back[name].value)
        assert there[name].low == pytest.approx(-back[name].high)
        assert metrics.paired_difference(first, first)[name] == metrics.Estimate(0.0, 0.0, 0.0)
    single = first.intervals()["mean"]
    assert there["mean"].high - there["mean"].low < (single.high - single.low) / 3
    assert single.value == pytest.approx(first.values.mean())


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth, covered = 0.7602, 0  # of normal scores one standard deviation apart: Phi(1 / sqrt(2))
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = (rng.random(300) < 0.4).astype(float)
        estimate = metrics.bootstrap_aucs(
            {"a": labels}, {"a": rng.normal(size=300) + labels}, np.arange(300), 200, seed
        ).intervals()["a"]
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 52

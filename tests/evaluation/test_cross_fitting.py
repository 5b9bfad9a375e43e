"""Rows are scored by probes that saw no row of their users, and every row is scored once."""

from dataclasses import replace

import numpy as np
import pytest

from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.cross_fitting import by_fold, cross_fitted, folds_of, mean_over_folds
from ray_ggsm.evaluation.metrics import bootstrap_aucs
from ray_ggsm.evaluation.results import Probed
from ray_ggsm.evaluation.study import Scores


class Score:
    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores


def test_every_row_is_scored_once_without_its_users() -> None:
    rng = np.random.default_rng(0)
    users = np.array([f"u{n}" for n in rng.integers(0, 40, 200)])
    rows = Aligned(rng.normal(size=(200, 3)).astype(np.float32), {"a": np.ones(200), "b": np.zeros(200)}, users, 0)
    seen: list[tuple[set, set]] = []

    def probe_all(config: ProbeConfig, seed: int, data: dict) -> Probed:
        assert seed == 7
        for each in data.values():
            seen.append((set(each.fit.users), set(each.score.users)))
        # a "probe" whose score is the row's first number
        return {
            (name, "linear"): {label: Score(each.score.vectors[:, 0]) for label in each.score.labels}
            for name, each in data.items()
        }

    all_N = np.ones(200, dtype=bool)
    config = ProbeConfig(kinds=("linear",), folds=4)
    found = cross_fitted(rows, all_N, all_N, ["a", "b"], config, 7, probe_all)
    np.testing.assert_array_equal(found["a"], rows.vectors[:, 0])
    np.testing.assert_array_equal(found["b"], rows.vectors[:, 0])
    assert len(seen) == 4
    assert not any(fit & score for fit, score in seen)
    assert set.union(*(score for _, score in seen)) == set(users)
    some_N = folds_of(users, 4) == 2
    part = cross_fitted(rows, ~some_N, some_N, ["a"], config, 7, probe_all)["a"]
    assert np.isnan(part[~some_N]).all()
    assert not np.isnan(part[some_N]).any()


def test_a_draw_without_a_class_in_one_fold_still_counts() -> None:
    """Two positives per fold: most draws once were left out for all labels, without a word."""
    rng = np.random.default_rng(0)
    users = np.array([f"u{n}" for n in range(200)])
    fold_N = np.arange(200) % 5
    rare, common = (np.arange(200) < 10).astype(float), (np.arange(200) % 3 == 0).astype(float)
    labels = {"rare": rare, "common": common}
    scores = {name: truth + rng.normal(size=200) for name, truth in labels.items()}
    got = mean_over_folds(labels, scores, users, fold_N, 200, 0)
    assert np.isfinite(got.resampled).mean() > 0.99
    each = bootstrap_aucs(*by_fold(labels, scores, fold_N), users, 200, 0).resampled[:, :5]
    assert np.isfinite(each).all(axis=1).mean() < 0.7
    np.testing.assert_allclose(got.resampled[:, 0], np.nanmean(each, axis=1))


def test_folds_with_other_scales_are_not_ranked_together() -> None:
    """The AUC is the mean of the folds' own, by loops over pairs; pooled scores would say less."""
    rng = np.random.default_rng(3)
    users = np.array([f"u{n}" for n in rng.integers(0, 60, 300)])
    fold_N, truth_N = folds_of(users, 3), (rng.random(300) < 0.4).astype(float)
    truth_N[:20] = np.nan
    score_N = rng.normal(size=300) + np.nan_to_num(truth_N) + np.array([0.0, 5.0, -7.0])[fold_N]
    by_hand = []
    for fold in range(3):
        of_class = [score_N[(fold_N == fold) & (truth_N == value)] for value in (1, 0)]
        by_hand.append(np.mean([(p > n) + 0.5 * (p == n) for p in of_class[0] for n in of_class[1]]))
    scores = Scores(users, {"a": truth_N, "b": 1 - truth_N}, {"a": score_N, "b": score_N}, fold_N)
    found = scores.aucs(50)
    np.testing.assert_allclose(found.values, [np.mean(by_hand), 1 - np.mean(by_hand)])
    assert found.resampled.shape == (50, 2)
    assert abs(found.resampled[:, 0].mean() - found.values[0]) < 0.03
    assert replace(scores, fold_N=None).aucs(50).values[0] < found.values[0] - 0.05
    ks = [ks_by_hand(truth_N[fold_N == fold], score_N[fold_N == fold]) for fold in range(3)]
    assert np.mean([each["KS"] for each in scores.measured("linear")[:3]]) == pytest.approx(np.mean(ks))


def ks_by_hand(truth_N: np.ndarray, score_N: np.ndarray) -> float:
    """The largest distance between the two classes' shares at or below a score."""
    classes = [score_N[truth_N == value] for value in (1, 0)]
    return max(abs(np.mean(classes[0] <= at) - np.mean(classes[1] <= at)) for at in score_N[~np.isnan(truth_N)])

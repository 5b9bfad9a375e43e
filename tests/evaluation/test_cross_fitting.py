"""Rows are scored by probes that saw no row of their users, and every row is scored once."""

import numpy as np

from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.cross_fitting import cross_fitted, folds_of
from ray_ggsm.evaluation.results import Probed


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

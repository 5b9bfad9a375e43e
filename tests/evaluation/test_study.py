"""A study's summary: the same rows for all, means over seeds, and no difference where there is none."""

import numpy as np
import pytest

from ray_ggsm.evaluation.study import Scores, markdown, study_summary, verdict

N = 400
GROUPS = {"first": ["a"], "second": ["b"]}


def scores(seed: int, strength: float) -> Scores:
    truth, own = np.random.default_rng(0), np.random.default_rng([seed, round(100 * strength)])
    labels = {name: (truth.random(N) < 0.4).astype(np.float32) for name in ("a", "b")}
    shared = {name: truth.normal(size=N) for name in labels}
    drawn = {name: shared[name] + 0.1 * own.normal(size=N) + strength * labels[name] for name in labels}
    return Scores(np.arange(N).astype(str), labels, drawn)


@pytest.fixture(scope="module")
def summary() -> dict:
    runs = {
        "good": {seed: scores(seed, 1.5) for seed in (0, 1, 2)},
        "plain": {seed: scores(seed, 0.5) for seed in (0, 1, 2)},
        "same": {seed: scores(seed + 10, 0.5) for seed in (0, 1, 2)},
        "baseline": {0: scores(0, 0.51)},
    }
    return study_summary(runs, "plain", 200)


def test_means_and_pairs(summary: dict) -> None:
    good = summary["variants"]["good"]
    assert good["auc"]["mean"] == pytest.approx((good["auc"]["a"] + good["auc"]["b"]) / 2)
    assert good["auc"]["mean"] == pytest.approx(np.mean(good["mean_of_each_seed"]))
    assert good["between_seeds"] == pytest.approx(np.std(good["mean_of_each_seed"], ddof=1))
    assert summary["variants"]["plain"]["minus_reference"] is None
    p = {frozenset((pair["first"], pair["second"])): pair["p"] for pair in summary["pairs"]}
    assert len(p) == 6
    assert p[frozenset(("good", "plain"))] < 0.01
    assert p[frozenset(("plain", "same"))] > 0.05


def test_markdown(summary: dict) -> None:
    lines = markdown(summary, GROUPS).splitlines()
    assert lines[0] == "| | seeds | mean | between seeds | minus plain (95 %) | a | b |"
    assert lines[2].startswith("| good | 3 | 0.")
    assert sum(line.startswith("| ") for line in lines) == 1 + 4 + 1 + 6
    assert "3 of 6 differences" in verdict(summary)


def test_other_rows_are_refused() -> None:
    mine, other = scores(0, 1.0), scores(0, 1.0)
    turned = Scores(other.users[::-1], other.labels, other.scores)
    with pytest.raises(AssertionError, match="same rows"):
        study_summary({"x": {0: mine}, "y": {0: turned}}, "x", 100)

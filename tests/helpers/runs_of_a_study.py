"""Made-up scores of a study's runs: three recipes with three seeds each, and a baseline."""

import numpy as np

from ray_ggsm.evaluation.study import Scores, StudySummary, study_summary

ROWS = 400
GROUPS = {"first": ["a"], "second": ["b"]}


def scores(seed: int, strength: float) -> Scores:
    truth, own = np.random.default_rng(0), np.random.default_rng([seed, round(100 * strength)])
    labels = {name: (truth.random(ROWS) < 0.4).astype(np.float32) for name in ("a", "b")}
    shared = {name: truth.normal(size=ROWS) for name in labels}
    drawn = {name: shared[name] + 0.1 * own.normal(size=ROWS) + strength * labels[name] for name in labels}
    return Scores(np.arange(ROWS).astype(str), labels, drawn)


def made_up_summary() -> StudySummary:
    """`good` is better than `plain`; `same` is `plain` with other seeds."""
    runs = {
        "good": {seed: scores(seed, 1.5) for seed in (0, 1, 2)},
        "plain": {seed: scores(seed, 0.5) for seed in (0, 1, 2)},
        "same": {seed: scores(seed + 10, 0.5) for seed in (0, 1, 2)},
        "baseline": {0: scores(0, 0.51)},
    }
    questions = [("good", "plain"), ("same", "plain")]
    return study_summary(runs, "plain", 200, "linear", questions, ["good", "plain", "same"])

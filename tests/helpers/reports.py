"""Reports on a run and on a study, made up."""

import numpy as np

from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.dimensions import Stored
from ray_ggsm.evaluation.few_labels import FewLabels
from ray_ggsm.evaluation.measures import MEASURES
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.pages.mask_figures import mask_history
from ray_ggsm.evaluation.pages.report import Report
from ray_ggsm.evaluation.pages.study_report import StudyReport
from ray_ggsm.evaluation.pages.user_map import UserMap
from ray_ggsm.evaluation.privacy import Attack, Privacy
from ray_ggsm.evaluation.study import Scores, StudySummary, study_summary
from tests.helpers.train_stage import log_json, slot_weights

GROUPS = {"behaviour": ("food", "transit"), "marketing": ("achiev",)}
LABELS = ("food", "transit", "achiev", "mean")


def estimates(value, width=0.02):
    return {
        label: Estimate(value + n / 100, value + n / 100 - width, value + n / 100 + width)
        for n, label in enumerate(LABELS)
    }


def report(**changes):
    values = {
        "title": "A <shop> & co",
        "auc": {
            name: {"linear": estimates(v), "lightgbm": estimates(v)}
            for name, v in (("encoder", 0.7), ("untrained", 0.6))
        },
        "differences": {"untrained": {"linear": estimates(0.1), "lightgbm": estimates(-0.005)}},
        "groups": GROUPS,
        "rows": {"probe": 2945, "test": 1185},
        "label_rates": {"probe": dict.fromkeys(LABELS[:3], 0.25), "test": {"food": None}},
        "scored": "test",
        "command": "python jobs/evaluate.py --config a.yaml",
    }
    return Report(**(values | changes))


FULL = {
    "few_labels": FewLabels((50, 100), {"encoder": [[0.6, 0.7], [0.7, 0.8]], "untrained": [[0.6, 0.6], [0.61, 0.62]]}),
    "delong": {"untrained": {kind: dict.fromkeys(LABELS[:3], 0.04) for kind in ("linear", "lightgbm")}},
    "measures": {"encoder": {kind: dict.fromkeys(MEASURES, 0.123) for kind in ("linear", "lightgbm")}},
    "calibration": {"linear": {"encoder": [(0.1, 0.2), (0.8, 0.7)]}},
    "stored": (
        Stored(64, "float32", 230.0, Estimate(0.7, 0.6, 0.8), Estimate(0.0, 0.0, 0.0)),
        Stored(32, "int8", 33.0, Estimate(0.69, 0.6, 0.8), Estimate(-0.01, -0.02, 0.0)),
        Stored(32, "float32", 120.0, Estimate(0.695, 0.6, 0.8), Estimate(-0.005, -0.01, 0.0)),
    ),
    "privacy": Privacy(
        {"vectors": Attack(Estimate(0.6, 0.55, 0.65), Estimate(0.5, 0.45, 0.55), Estimate(0.1, 0.05, 0.15))}, 700, 300
    ),
    "user_map": UserMap(np.array([[0.0, 1.0], [2.0, 3.0]]), {"food": np.array([1.0, np.nan])}, 1185, 0.42),
    "training": {"loss": {"training": [(0, 5.0), (10, 4.0)], "held-out": [(0, 5.0)]}},
    "mask": mask_history(log_json(), slot_weights()),
    "health": {"encoder": {"vectors": 1185, "mean length": 1.0}},
    "seconds": {"train": 100.0, "embed": 10.0},
    "config": "name: x",
    "digests": {"config": "0123456789abcdef"},
    "notes": ("Simulated data.",),
}


def small_study(rows: int = 120) -> StudySummary:
    """The summary of three variants with two seeds each, of which the later ones are better, and of a baseline."""
    truth = np.random.default_rng(0)
    labels = {name: (truth.random(rows) < 0.4).astype(np.float32) for name in ("a", "b")}

    def drawn(seed: int, strength: float) -> Scores:
        own = np.random.default_rng(seed)
        return Scores(
            np.arange(rows), labels, {name: own.normal(size=rows) + strength * labels[name] for name in labels}
        )

    runs = {f"v<{n}>": {seed: drawn(10 * n + seed, n) for seed in range(2)} for n in range(3)}
    questions = [("v<2>", "v<0>")]
    return study_summary({**runs, "base": {0: drawn(99, 1)}}, "v<0>", 100, "linear", questions, runs.keys())


def study_report(summary: StudySummary, **changes) -> StudyReport:
    groups = {"first": ("a",), "second": ("b",)}
    values = {"title": "A & B", "summary": summary, "groups": groups, "command": "run", "config": ProbeConfig(folds=7)}
    return StudyReport(**(values | changes))

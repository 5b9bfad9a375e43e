import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from ray_ggsm.evaluation.measures import MEASURES
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.pages.mask_figures import mask_history
from ray_ggsm.evaluation.pages.report import Report, headline, render, verdict, write_report
from ray_ggsm.evaluation.pages.user_map import UserMap
from tests.evaluation.train_stage import log_json, slot_weights

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
    "delong": {"untrained": {kind: dict.fromkeys(LABELS[:3], 0.04) for kind in ("linear", "lightgbm")}},
    "measures": {"encoder": {kind: dict.fromkeys(MEASURES, 0.123) for kind in ("linear", "lightgbm")}},
    "calibration": {"linear": {"encoder": [(0.1, 0.2), (0.8, 0.7)]}},
    "user_map": UserMap(np.array([[0.0, 1.0], [2.0, 3.0]]), {"food": np.array([1.0, np.nan])}, 1185, 0.42),
    "training": {"loss": {"training": [(0, 5.0), (10, 4.0)], "held-out": [(0, 5.0)]}},
    "mask": mask_history(log_json(), slot_weights()),
    "health": {"encoder": {"vectors": 1185, "mean length": 1.0}},
    "seconds": {"train": 100.0, "embed": 10.0},
    "config": "name: x",
    "digests": {"config": "0123456789abcdef"},
    "notes": ("Simulated data.",),
}


class Balance(HTMLParser):
    """Counts open tags; HTML's void elements never close."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("extra", [{}, FULL])
def test_page_is_well_formed_escaped_and_loads_nothing(extra):
    page = render(report(**extra))
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    assert "A &lt;shop&gt; &amp; co" in page
    assert not re.search(r"https?://|<script|<link|@import|url\(|<img", page)
    for picture in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(picture)
    assert not re.search(r"\bnan\b", page)


def test_sections_without_data_are_left_out():
    small, full = render(report(differences={})), render(report(**FULL))
    for heading in (
        "Differences, paired",
        "Other measures",
        "Calibration",
        "Map of users",
        "Training",
        "Opening of the mask",
        "Health of the vectors",
        "Wall time",
    ):
        assert f"<h2>{heading}</h2>" not in small
        assert f"<h2>{heading}</h2>" in full
    assert all(text in full for text in ("0123456789abcdef", "name: x", "Simulated data.", "1 min 50 s"))


def test_every_auc_stands_in_the_table():
    page = render(report())
    for value in ("0.700", "0.710", "0.720", "0.730", "0.600", "0.630"):
        assert f"<b>{value}</b>" in page


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        (Estimate(0.02, 0.01, 0.03), "beats the untrained encoder."),
        (Estimate(-0.02, -0.03, -0.01), "falls short of the untrained encoder."),
        (Estimate(0.02, -0.01, 0.05), "cannot be told apart from the untrained encoder."),
    ],
)
def test_words_follow_the_interval(gap, words):
    given_report = report(differences={"untrained": {"linear": {"mean": gap}}})
    assert headline(given_report) == f"The encoder {words}"
    assert ("may be chance" in verdict(given_report, "linear")) == ("told apart" in words)
    assert verdict(given_report, "linear").startswith("Linear probe: mean AUC 0.730 [0.710, 0.750]; ")


def test_page_is_written_whole(tmp_path):
    write_report(report(), str(tmp_path / "deep" / "report.html"))
    assert (tmp_path / "deep" / "report.html").read_text().rstrip().endswith("</html>")

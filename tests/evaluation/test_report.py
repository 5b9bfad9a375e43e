import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray_ggsm.evaluation.pages import charts
from ray_ggsm.evaluation.pages.axes import Axis, LogAxis
from ray_ggsm.evaluation.pages.page import duration
from ray_ggsm.evaluation.pages.report import headline, render, verdict, write_report

from ray_ggsm.evaluation.health import vector_health
from ray_ggsm.evaluation.metrics import Estimate
from tests.helpers.reports import FULL, GROUPS, estimates, report


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


@given(values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=5))
def test_axis_keeps_values_inside_and_ticks_round(values):
    axis = Axis.around(values, 10, 110)
    assert all(9.99 <= axis(value) <= 110.01 for value in values)
    assert 1 <= len(axis.ticks) <= 7
    assert f"{axis.step:.0e}"[0] in "125"


@given(values=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=5))
def test_logarithmic_axis_keeps_values_inside_and_ticks_round(values):
    axis = LogAxis.around(values, 10, 110)
    assert all(9.9 <= axis(value) <= 110.1 for value in values)
    assert [axis(tick) for tick in (axis.ticks[0], axis.ticks[-1])] == [10, 110]
    assert {f"{tick:.0e}"[0] for tick in axis.ticks} <= set("125")


def test_names_at_line_ends_do_not_overlap():
    series = {f"line {n}": [(0, 1.0), (1, 2.0 + n / 1000)] for n in range(7)}
    root = ElementTree.fromstring(charts.lines(series, "t", names=True))
    ends = [float(text.get("y")) for text in root.iter("text") if text.get("class").startswith("end")]
    assert ends == sorted(ends, reverse=True)
    assert min(-np.diff(ends)) >= 12.9


def test_marks_stand_where_their_value_is():
    series = {"x": estimates(0.7)}
    root = ElementTree.fromstring(charts.dots(series, GROUPS, "t", (0.5, 0.9)))
    axis = Axis.around((0.5, 0.9), charts._LEFT, charts._WIDTH - charts._RIGHT)
    found = sorted(float(circle.get("cx")) for circle in root.iter("circle"))
    assert found == pytest.approx(sorted(axis(item.value) for item in series["x"].values()), abs=0.06)


def test_durations():
    assert [duration(value) for value in (44.4, 75, 7500)] == ["44 s", "1 min 15 s", "2 h 5 min"]


def test_health_against_all_pairs_and_planted_faults():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(41, 7)) + 1).astype(np.float32)
    vectors[:, 3] = 2.5
    vectors[17] = vectors[4]
    vectors.flags.writeable = False
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[~np.eye(41, dtype=bool)]
    health = vector_health(vectors)
    assert health["mean cosine of two users"] == pytest.approx(cosines.mean(), abs=1e-5)
    assert (health["dead dimensions"], health["repeated vectors"], health["vectors"]) == (1, 1, 41)
    assert health["mean length"] == pytest.approx(np.linalg.norm(vectors, axis=1).mean(), rel=1e-5)

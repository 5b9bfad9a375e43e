import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from ray_ggsm.evaluation.few_labels import FewLabels
from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.pages.report import headline, render, verdict, write_report
from tests.helpers.reports import FULL, report


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
        "With few labels",
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


def test_few_labels_and_their_differences() -> None:
    auc = {"encoder": [[0.6, 0.7]], "handcrafted": [[0.5, 0.5]], "joined": [[0.71, 0.81]]}
    estimates = report().auc["encoder"]
    page = render(report(auc=dict.fromkeys(auc, estimates), differences={}, few_labels=FewLabels((50,), auc)))
    row = re.search(r"<tr><th>50</th>(.*?)</tr>", page, re.S).group(1)
    assert re.findall(r"[+±]? ?\d\.\d{3}", row) == ["0.650", "0.500", "0.760", "+0.260", "± 0.071"]


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


def test_others_of_one_standing_are_named_together() -> None:
    above, level = Estimate(0.02, 0.01, 0.03), Estimate(0.0, -0.01, 0.01)
    gaps = {"untrained": level, "handcrafted": above, "joined": level, "other": level}
    given_report = report(differences={name: {"linear": {"mean": gap}} for name, gap in gaps.items()})
    assert headline(given_report) == (
        "The encoder cannot be told apart from the untrained encoder, the encoder joined with the hand-crafted "
        "features and the other, and beats the hand-crafted features."
    )


def test_page_is_written_whole(tmp_path):
    write_report(report(), str(tmp_path / "deep" / "report.html"))
    assert (tmp_path / "deep" / "report.html").read_text().rstrip().endswith("</html>")

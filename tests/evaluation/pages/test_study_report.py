"""The page of a study: whole, loads nothing, and says what its numbers say."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ray_ggsm.config import load
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.pages.mask_figures import mask_history
from ray_ggsm.evaluation.pages.study_report import render, smoothed, typical_half_width, write_study
from ray_ggsm.evaluation.study import StudySummary
from tests.helpers.reports import small_study, study_report
from tests.helpers.train_stage import log_json, slot_weights


@pytest.fixture(scope="module")
def summary() -> StudySummary:
    return small_study()


def test_page_is_whole_and_loads_nothing(summary: StudySummary) -> None:
    curve = [(step, 5 - step / 100) for step in range(100)]
    mask = mask_history(log_json(), slot_weights())
    page = render(study_report(summary, loss={"v<2>": [curve, curve], "v<1>": [curve]}, masks={"v<2>": mask}))
    assert not re.search(r"https?://|<script|<link|@import|url\(|<img|v<2>", page)
    for picture in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(picture)
    for heading in (
        "AUCs",
        "Differences from v&lt;0&gt;",
        "Who differs from whom",
        "Training loss",
        "Opening of the mask",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "<h2>Training loss</h2>" not in render(study_report(summary))


def test_the_files_of_a_study(summary: StudySummary, tmp_path: Path) -> None:
    write_study(study_report(summary), str(tmp_path))
    values = json.loads((tmp_path / "study.json").read_text())
    assert values["config"]["folds"] == 7
    assert StudySummary.model_validate(values) == summary
    assert load(ProbeConfig, str(tmp_path / "config.yaml")) == ProbeConfig(folds=7)
    assert (tmp_path / "study.md").read_text().startswith("# A & B\n")
    page = (tmp_path / "study.html").read_text()
    assert page == render(study_report(summary))
    assert "folds: 7" in page


def test_matrix_says_row_minus_column(summary: StudySummary) -> None:
    cells = re.findall(r'<td class="(up|down|even|self)" title="(.*?)">([+-]?\d*)</td>', render(study_report(summary)))
    assert len(cells) == 16
    shown = {tooltip.split(":")[0]: (style, int(text)) for style, tooltip, text in cells if style != "self"}
    assert len(shown) == 12
    style, text = shown["v&lt;2&gt; minus v&lt;0&gt;"]
    assert style == "up"
    auc = {name: variant.auc["mean"] for name, variant in summary.variants.items()}
    assert text == pytest.approx(1000 * (auc["v<2>"] - auc["v<0>"]), abs=0.51)
    assert shown["v&lt;0&gt; minus v&lt;2&gt;"] == ("down", -text)


def test_half_width_is_that_of_trained_variants(summary: StudySummary) -> None:
    trained = [pair for pair in summary.pairs if "base" not in (pair.first, pair.second)]
    assert typical_half_width(summary) == np.median([(pair.high - pair.low) / 2 for pair in trained])


def test_smoothing_keeps_a_line_and_averages_seeds() -> None:
    line = [(step, 2.0 * step) for step in range(40)]
    up, down = ([(step, value + shift) for step, value in line] for shift in (1, -1))
    found = smoothed([up, down])
    assert found[0] == (1, 1.0)
    assert found[-1] == (39, 77.0)
    assert smoothed([[(3, 1.5)]]) == [(3, 1.5)]
    assert smoothed([[(1, 1.0), (2, 3.0)], [(1, 2.0)]]) == [(1, 1.5)]

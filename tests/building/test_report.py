"""The report of a run, also of one that fails."""

import itertools
import json
from pathlib import Path

import pytest

from ray_ggsm.building.report import Progress, RunReport, reported


def test_a_run_that_fails_leaves_a_report(tmp_path: Path) -> None:
    report = RunReport("refresh", "/tables/users", "r<1>")
    with pytest.raises(ValueError, match="no space"), reported(report, str(tmp_path)), report.step("encode"):
        raise ValueError("no space\nleft")
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["outcome"] == "ValueError: no space left"
    assert written["version"] is None
    assert written["seconds"].keys() == {"encode", "all"}
    page = (tmp_path / "report.html").read_text()
    assert "Nothing was published" in page
    assert "r&lt;1&gt;" in page


def test_the_page_of_a_run_that_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.chain([0.0, 1.0, 4.0, 10.0], itertools.repeat(10.0))
    monkeypatch.setattr("ray_ggsm.building.report.time.monotonic", lambda: next(clock))
    with reported(RunReport("embed", "users", "r1"), str(tmp_path)) as report:
        with report.step("fill"):
            pass
        report.version, report.outcome, report.counts = 7, "12 rows", {"rows_read": 12_345}
        report.gates = {"coverage": "FAILED: 3 rows"}
    page = (tmp_path / "report.html").read_text()
    assert "Version 7 was published" in page
    assert "3.0 s" in page
    assert "width: 30.0%" in page, "the step took 3 of 10 seconds"
    assert "12,345" in page
    assert "FAILED: 3 rows" in page


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([100.0, 105.0, 120.0, 120.0])
    monkeypatch.setattr("ray_ggsm.building.report.time.monotonic", lambda: next(clock))
    progress = Progress("embed", 4000)
    progress.add(500, 400, 40_000)
    assert capsys.readouterr().out == ""
    progress.add(500, 400, 40_000)
    line = "embed: [#####...............] 1,000 of 4,000 rows  40 users/s  4,000 tokens/s  1:00 left\n"
    assert capsys.readouterr().out == line

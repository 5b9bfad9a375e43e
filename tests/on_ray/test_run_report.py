"""What a run says about itself, also when it fails."""

import json
from pathlib import Path

import pytest
from ray_ggsm.building.report import Progress, RunReport, reported


def test_a_run_that_fails_leaves_a_report(tmp_path: Path) -> None:
    report = RunReport("refresh", "/tables/users", "r<1>")
    with pytest.raises(ValueError, match="no space"), reported(report, str(tmp_path)), report.step("encode"):
        raise ValueError("no space\nleft")
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["outcome"] == "ValueError: no space left"
    assert told["version"] is None
    assert told["seconds"].keys() == {"encode", "all"}
    page = (tmp_path / "report.html").read_text()
    assert "Nothing was published" in page
    assert "r&lt;1&gt;" in page


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([100.0, 105.0, 120.0, 120.0])
    monkeypatch.setattr("ray_ggsm.building.report.time.monotonic", lambda: next(clock))
    progress = Progress("embed", 4000)
    progress.add(500, 400, 40_000)
    assert capsys.readouterr().out == ""
    progress.add(500, 400, 40_000)
    line = "embed: [#####...............] 1,000 of 4,000 rows  40 users/s  4,000 tokens/s  1:00 left\n"
    assert capsys.readouterr().out == line

"""The report of a run, also of one that fails."""

import datetime as dt
import itertools
import json
import re
from pathlib import Path

import pytest

from ray_ggsm.building.report import Progress, RunReport, reported
from ray_ggsm.building.run_page import freshness
from ray_ggsm.tables import open_table
from ray_ggsm.tables.metadata import VersionCounts, VersionMetadata
from tests.helpers.tables import put, rows


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
        report.gates, report.failed_gates = {"coverage": "3 rows", "norm": "lengths"}, ("coverage",)
    page = (tmp_path / "report.html").read_text()
    assert "Version 7 was published" in page
    assert cells(page, "fill") == ["3.0"]
    assert "width: 30.0%" in page, "the step took 3 of 10 seconds"
    assert "12,345" in page
    assert re.findall(r"<td>(.*)</td><td>(.*)</td><td>(.*)</td>", page) == [
        ("coverage", "FAILED", "3 rows"),
        ("norm", "passed", "lengths"),
    ]
    assert "There is no version before to compare with" in page
    assert "resh" not in page, "nobody asks whether the table of a study is fresh"


def test_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([100.0, 105.0, 120.0, 120.0])
    monkeypatch.setattr("ray_ggsm.building.report.time.monotonic", lambda: next(clock))
    progress = Progress("embed", 4000)
    progress.add(500, 400, 40_000)
    assert capsys.readouterr().out == ""
    progress.add(500, 400, 40_000)
    line = "embed: [#####...............] 1,000 of 4,000 rows  40 users/s  4,000 tokens/s  1:00 left\n"
    assert capsys.readouterr().out == line


OLD, NEW = "2026-03-01T23:00:00+00:00", "2026-03-06T23:00:00+00:00"
"""Midnights in Berlin, of 2 and 7 March."""


@pytest.mark.parametrize(
    ("day", "ages", "sentence"),
    [
        (7, (OLD, NEW), "Fresh: the newest vectors are of 2026-03-07 (today), the oldest of 2026-03-02 (5 days ago)"),
        (
            8,
            (NEW,),
            "Not fresh: the newest vectors are of 2026-03-07 (1 day ago), the oldest of 2026-03-07 (1 day ago)",
        ),
        (9, (), "Age unknown: no version records the moments that its vectors are of"),
    ],
)
def test_freshness_by_the_days_of_the_table(monkeypatch, day: int, ages: tuple[str, ...], sentence: str) -> None:
    monkeypatch.setattr("ray_ggsm.building.run_page.today", lambda zone: dt.date(2026, 3, day))
    assert freshness(dict.fromkeys(ages, 3), "Europe/Berlin") == sentence


def cells(page: str, name: str) -> list[str]:
    """The numbers of a line that compares: now, before, ratio."""
    (line,) = re.findall(rf"<tr><td>{name}(?:<div.*?></div>)?</td>(.*)</tr>", page)
    return re.findall(r'<td class="n">(.*?)</td>', line)


def before(location: str, **metadata: object) -> RunReport:
    """The report of a run on a table of one version."""
    put(location, rows(20), "r0", metadata=metadata)
    report = RunReport("refresh", location, "r1", "Europe/Berlin")
    report.begun(open_table(location))
    return report


def test_a_morning_beside_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_ggsm.building.run_page.today", lambda zone: dt.date(2026, 3, 7))
    earlier = VersionCounts(expected=20, written=20, encoded=8, departed=4, new=0, dead_letters=0)
    recorded = {"counts": earlier, "seconds": {"rows": 4.0, "encode": 10.0}, "rates": {"users_per_second": 80.0}}
    now = VersionCounts(expected=21, written=20, encoded=12, departed=3, new=3, dead_letters=1)
    with reported(before(f"{tmp_path}/users", **recorded), str(tmp_path)) as report:
        report.published(1, VersionMetadata(counts=now, ages={OLD: 5, NEW: 15}))
        report.seconds, report.rates = {"rows": 6.0, "encode": 5.0, "publish": 1.0}, {"users_per_second": 240.0}
    page = (tmp_path / "report.html").read_text()
    assert "Fresh: the newest vectors are of 2026-03-07 (today)" in page
    assert "Compared with what version 0 records of its run (r0)." in page
    assert cells(page, "written") == ["20", "20", "× 1.00"]
    assert cells(page, "encoded") == ["12", "8", "× 1.50"]
    assert cells(page, "carried") == ["8", "12", "× 0.67"]
    assert cells(page, "departed") == ["3", "4", "× 0.75"]
    assert cells(page, "new") == ["3", "0", ""]
    assert cells(page, "dead letters") == ["1", "0", ""]
    assert cells(page, "rows") == ["6.0", "4.0", "× 1.50"]
    assert cells(page, "encode") == ["5.0", "10.0", "× 0.50"]
    assert cells(page, "publish") == ["1.0", "unknown", ""], "a commit cannot hold how long it took"
    assert cells(page, "users per second") == ["240", "80", "× 3.00"]


def test_what_the_version_before_does_not_record_is_unknown(tmp_path: Path) -> None:
    """As older code published it: some counts, no times; and a run that fails shows how old the table is."""
    report = before(f"{tmp_path}/users", counts=VersionCounts(written=20), ages={OLD: 20})
    with pytest.raises(ValueError, match="no space"), reported(report, str(tmp_path)), report.step("rows"):
        raise ValueError("no space")
    page = (tmp_path / "report.html").read_text()
    assert "Not fresh: the newest vectors are of 2026-03-02" in page
    assert cells(page, "written") == ["unknown", "20", ""]
    assert cells(page, "carried") == ["unknown", "unknown", ""]
    assert cells(page, "rows")[1:] == ["unknown", ""]


def test_a_step_that_is_done_again_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 12.0])
    monkeypatch.setattr("ray_ggsm.building.report.time.monotonic", lambda: next(clock))
    report = RunReport("refresh", "users")
    for _ in range(2):
        with report.step("encode"):
            pass
    assert report.seconds == {"encode": 5.0}

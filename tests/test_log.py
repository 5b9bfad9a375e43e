"""Printed lines: unchanged as text; as JSON, every line is one object that says what it is about."""

import datetime as dt
import json
import sys

import pytest

from ray_ggsm.building.report import Progress, RunReport, reported
from ray_ggsm.cli.exit_codes import exit_code
from ray_ggsm.cli.main import main
from ray_ggsm.config import InputError
from ray_ggsm.log import about, printed_as, say, say_error, show
from tests.helpers.tables import put, rows


def lines(text: str) -> list[dict]:
    """The objects, less their times, which are of today and in UTC."""
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        time = dt.datetime.fromisoformat(line.pop("time"))
        assert time.utcoffset() == dt.timedelta(0)
        assert abs(dt.datetime.now(dt.UTC) - time) < dt.timedelta(hours=1)
    return found


def test_text_is_what_is_printed(capsys) -> None:
    with printed_as("text", "refresh"), about(table="users", run="r1"):
        print("refresh: a", end="\n\n")
        say("refresh: 60 rows", rows=60)
        say_error("\nInterrupted.")
    assert capsys.readouterr() == ("refresh: a\n\nrefresh: 60 rows\n", "\nInterrupted.\n")


def test_json_has_an_object_for_each_line(capsys) -> None:
    with printed_as("json", "refresh"):
        print("first", "line\n\nsecond")
        with about(table="users", run="r1"):
            say("refresh: 60 rows, «äß»", rows=60, seconds=1.5)
        print("no end", end="")
    out, err = capsys.readouterr()
    assert lines(out) == [
        {"level": "info", "job": "refresh", "message": "first line"},
        {"level": "info", "job": "refresh", "message": "second"},
        {
            "level": "info", "job": "refresh", "table": "users", "run": "r1", "message": "refresh: 60 rows, «äß»",
            "rows": 60, "seconds": 1.5,
        },
        {"level": "info", "job": "refresh", "message": "no end"},
    ]  # fmt: skip
    assert err == ""


def test_warnings_and_bars_of_libraries(capsys) -> None:
    with printed_as("json", "train"):
        print("x.py:3: UserWarning: odd", file=sys.stderr)
        sys.stderr.write("\r10 %\r20 %\n")
    found = lines(capsys.readouterr().err)
    assert {line["level"] for line in found} == {"warning"}
    assert [line["message"] for line in found] == ["x.py:3: UserWarning: odd", "10 %", "20 %"]


def test_the_line_about_an_error_says_which_run_failed(capsys, tmp_path) -> None:
    def work() -> None:
        with reported(RunReport("refresh", "s3://key:secret@bucket/users", "r1"), str(tmp_path)):
            raise InputError("rows: no file")

    def crash() -> None:
        raise RuntimeError("a bug")

    with printed_as("json", "refresh"):
        assert exit_code(work) == 2
        assert exit_code(crash) == 1
    out, err = capsys.readouterr()
    named = {"job": "refresh", "table": "s3://bucket/users", "run": "r1"}
    assert lines(out) == [{"level": "info", **named, "message": f"refresh: {tmp_path}/report.html"}]
    failed, crashed = lines(err)
    assert failed == {"level": "error", **named, "message": "error: rows: no file"}
    assert crashed["message"].startswith("Traceback (most recent call last):\n")
    assert crashed["message"].endswith("\nRuntimeError: a bug")


def test_progress_has_its_numbers(capsys, monkeypatch) -> None:
    clock = iter([100.0, 120.0, 120.0])
    monkeypatch.setattr("ray_ggsm.building.report.time.monotonic", lambda: next(clock))
    with printed_as("json", "embed"):
        Progress("embed", 4000).add(1000, 800, 80_000)
    (line,) = lines(capsys.readouterr().out)
    assert line.pop("message").startswith("embed: [#####")
    numbers = {"seconds": 20.0, "rows": 1000, "all_rows": 4000, "encoded": 800, "tokens": 80_000}
    assert line == {"level": "info", "job": "embed", **numbers}


def call(monkeypatch: pytest.MonkeyPatch, form: str, *arguments: str) -> int:
    monkeypatch.setenv("RAY_GGSM_LOG", form)
    monkeypatch.setattr(sys, "argv", ["ray-ggsm", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_a_job(monkeypatch, capsys, tmp_path) -> None:
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    assert call(monkeypatch, "json", "tables", "verify", location) == 0
    verified = "version 0: all 5 files are as the log says"
    assert lines(capsys.readouterr().out) == [{"level": "info", "job": "tables", "message": verified}]
    assert call(monkeypatch, "json", "tables", "verify", f"{location}-2") == 2
    assert [line["level"] for line in lines(capsys.readouterr().err)] == ["error"]
    assert call(monkeypatch, "json", "tables", "metrics", location) == 0
    assert "\nray_ggsm_table_version{" in capsys.readouterr().out, "gauges are for another program"
    assert call(monkeypatch, "xml", "tables", "verify", location) == 2
    assert capsys.readouterr().err == "error: RAY_GGSM_LOG: expected 'text' or 'json', found 'xml'\n"


def test_a_document_stays_as_it_is(capsys) -> None:
    with printed_as("json", "tables"):
        show("gauge 1\n")
    assert capsys.readouterr().out == "gauge 1\n"

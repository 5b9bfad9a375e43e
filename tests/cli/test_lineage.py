"""OpenLineage events of jobs, by the real client's file transport; without the variable there are none."""

import json
import uuid
from contextlib import nullcontext
from pathlib import Path

import pytest

from ray_ggsm.cli.exit_codes import exit_code
from ray_ggsm.cli.lineage import Ended, recorded
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.lineage import Dataset, noted, reads, writes
from tests.helpers.tables import job, put, rows

FACETS = {"version", "schema", "outputStatistics", "jobType", "processing_engine", "errorMessage", "tags"}


@pytest.fixture
def events(tmp_path, monkeypatch):
    """Turns events on; gives what was sent so far."""
    pytest.importorskip("openlineage.client", reason="openlineage-python is not installed (the extra `lineage`)")
    file = tmp_path / "events.jsonl"
    monkeypatch.setenv("RAY_GGSM_LINEAGE", "nightly")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(file))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    return lambda: [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def check(event: dict) -> None:
    """What the specification (2-0-2) asks of a run event and of each facet."""
    assert event["eventType"] in ("START", "COMPLETE", "FAIL", "ABORT")
    assert event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent")
    assert event["eventTime"].endswith("+00:00")
    assert event["producer"] == "urn:ray-ggsm"
    uuid.UUID(event["run"]["runId"])
    assert event["job"]["namespace"] == "nightly"
    places = [event["run"], event["job"], *event["inputs"], *event["outputs"]]
    facets = {name: facet for place in places for name, facet in place["facets"].items()}
    facets |= {name: facet for place in event["outputs"] for name, facet in place["outputFacets"].items()}
    assert facets.keys() <= FACETS
    assert "client" in facets.pop("tags")["_producer"], "which the client adds: its own version"
    for facet in facets.values():
        assert facet["_producer"] == "urn:ray-ggsm"
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/facets/")
    for place in (*event["inputs"], *event["outputs"]):
        assert place["namespace"]
        assert place["name"]


def test_a_command_that_publishes(tmp_path, events):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    (tmp_path / "key").write_text("k" * 32)
    (tmp_path / "gone").write_text("u3\nu4\n")
    assert job("forget", location, "--users-file", tmp_path / "gone", "--key-file", tmp_path / "key") == 0
    start, complete = events()
    check(start)
    check(complete)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert start["job"]["name"] == complete["job"]["name"] == "tables.forget.users"
    (output,) = complete["outputs"]
    assert (output["namespace"], output["name"]) == ("file", location)
    assert output["facets"]["version"]["datasetVersion"] == "1"
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 18
    fields = {each["name"]: each["type"] for each in output["facets"]["schema"]["fields"]}
    assert fields["user_id"] == "string"
    assert fields["embedding"] == "list<element: float>" or fields["embedding"].startswith("list<")
    assert fields["bucket"] == "int32"
    assert complete["inputs"] == [], "what a job also writes is an output"
    assert "u3" not in json.dumps([start, complete]), "no user ids"


def test_reading_commands_and_rehearsals_have_no_events(tmp_path, events):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    assert job("history", location) == 0
    assert job("vacuum", location, "--retention-hours", "1", "--dry-run") == 0
    assert events() == []


def boom() -> None:
    raise RuntimeError("row of ann")


def wrong() -> None:
    reads("s3://user:secret@bucket/rows/*.parquet", "7")
    raise InputError("rows: s3://user:secret@bucket/rows has no column")


def waits() -> None:
    raise NotNow("the day is not complete")


@pytest.mark.parametrize(
    ("work", "code", "state", "message"),
    [
        (lambda: None, 0, "COMPLETE", None),
        (lambda: 5, 5, "COMPLETE", None),
        (wrong, 2, "FAIL", "rows: s3://bucket/rows has no column"),
        (waits, 4, "FAIL", "the day is not complete"),
        (boom, 1, "FAIL", "exit code 1; the job's own lines say more"),
    ],
)
def test_every_end_has_its_event(events, work, code, state, message):
    assert exit_code(work, "refresh.night") == code
    start, end = events()
    check(end)
    assert (start["eventType"], end["eventType"]) == ("START", state)
    if message is None:
        assert "errorMessage" not in end["run"]["facets"]
    else:
        assert end["run"]["facets"]["errorMessage"]["message"] == message
    if work is wrong:
        (place,) = end["inputs"]
        assert (place["namespace"], place["name"]) == ("s3://bucket", "rows/*.parquet")
        assert place["facets"]["version"]["datasetVersion"] == "7"


class Background:
    """A client that sends in the background: without `close`, what waits is lost when the process ends."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.sent: list[str] = []

    def emit(self, event) -> None:
        self.waiting.append(event.eventType.name)

    def close(self, timeout: float) -> None:
        self.sent += self.waiting


@pytest.mark.parametrize("end", [SystemExit(3), ValueError("a bug"), None])
def test_the_last_event_is_sent_whatever_ends_the_work(events, monkeypatch, end):
    def work() -> Ended:
        if end is not None:
            raise end
        return Ended(0)

    client = Background()
    monkeypatch.setattr("openlineage.client.OpenLineageClient", lambda: client)
    with nullcontext() if end is None else pytest.raises(type(end)):
        recorded("refresh.night", work)
    assert client.sent == ["START", "COMPLETE" if end is None else "FAIL"]


def test_a_terminated_job(events, monkeypatch):
    def terminated() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ray_ggsm.cli.exit_codes.ended_by", 15)
    assert exit_code(terminated, "train.x") == 143
    assert [each["eventType"] for each in events()] == ["START", "ABORT"]


def test_events_that_are_not_delivered_end_no_job(events, monkeypatch, capsys):
    """A directory stands where the file should be: one line says so, and the job goes on."""
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(Path("/proc/nowhere/events")))
    assert exit_code(lambda: None, "train.x") == 0
    assert capsys.readouterr().err.count("events of this run are not delivered") == 1


def test_off_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_GGSM_LINEAGE", raising=False)
    monkeypatch.setattr("ray_ggsm.cli.lineage._Events", None)  # whoever makes one fails
    assert exit_code(lambda: None, "train.x") == 0


def test_without_the_client_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setenv("RAY_GGSM_LINEAGE", "nightly")
    monkeypatch.setitem(__import__("sys").modules, "openlineage.client", None)
    assert exit_code(lambda: None, "train.x") == 2
    assert "pip install 'ray-ggsm[lineage]'" in capsys.readouterr().err


def test_what_is_noted():
    reads("before", "1")
    with noted() as found:
        reads("in", "1")
        reads("in", "2")
        reads("out/encoder")
        reads("outer")
        writes(Dataset("out", "3"))
    writes(Dataset("after"))
    assert found.others == [Dataset("in", "2"), Dataset("outer")]
    assert found.outputs == {"out": Dataset("out", "3")}

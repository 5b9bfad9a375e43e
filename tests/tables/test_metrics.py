"""Gauges for Prometheus, read with Prometheus' own parser."""

import datetime as dt
import json
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ray_ggsm.building.report import RunReport, reported
from ray_ggsm.tables import open_table
from ray_ggsm.tables.maintenance import forget, rollback, vacuum
from ray_ggsm.tables.metadata import VersionCounts
from ray_ggsm.tables.metrics import metrics
from tests.helpers.tables import put, rows
from tests.tables.test_maintenance import job

DAYS = {"2024-03-02T00:00:00+00:00": 3, "2024-02-28T12:00:00+00:00": 28}
OLDEST, NEWEST = 1709121600, 1709337600
"""Of these days, as `date -u -d ... +%s` has them."""


def gauges(text: str, location: str) -> dict[str, float]:
    """Gauge -> value."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        (sample,) = family.samples
        assert sample.labels == {"table": location}
        assert family.documentation.endswith(".")
        found[family.name.removeprefix("ray_ggsm_table_")] = sample.value
    return found


def test_gauges(tmp_path):
    location = str(tmp_path / 'a "good" table')
    counts = VersionCounts(expected=33, written=31, dead_letters=2, encoded=17)
    metadata = {"ages": DAYS, "counts": counts, "failed_gates": ["norm", "drift"]}
    put(location, rows(31), "r0", metadata=metadata)
    table = open_table(location)
    published = table.history()[0].timestamp.timestamp()
    expected = {
        "last_publish_timestamp_seconds": published,
        "version": 0,
        "rows": 31,
        "encoded_rows": 17,
        "dead_letters": 2,
        "oldest_as_of_timestamp_seconds": OLDEST,
        "newest_as_of_timestamp_seconds": NEWEST,
        "failed_gates": 2,
    }
    assert gauges(metrics(table), location) == expected

    forget(location, ["u3"], b"0123456789abcdef")
    vacuum(location, 0, dry_run=False)
    after = gauges(metrics(open_table(location)), location)
    assert after == {**expected, "version": 1, "rows": 30}  # a run published before, not the forget, nor the vacuum


def test_a_rollback_shows_the_rows_that_it_brought_back(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0", metadata={"ages": {"2024-02-28T12:00:00+00:00": 20}})
    put(location, rows(31), "r1", metadata={"ages": DAYS, "counts": VersionCounts(encoded=5, dead_letters=1)})
    rollback(location, 0)
    table = open_table(location)
    found = gauges(metrics(table), location)
    assert (found["version"], found["rows"], found["encoded_rows"], found["dead_letters"]) == (2, 20, 5, 1)
    assert found["newest_as_of_timestamp_seconds"] == OLDEST
    assert found["last_publish_timestamp_seconds"] == table.history()[1].timestamp.timestamp()


def test_what_is_not_recorded_is_left_out(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    found = gauges(metrics(open_table(location)), location)
    assert sorted(found) == ["failed_gates", "last_publish_timestamp_seconds", "rows", "version"]


@pytest.mark.parametrize("to_file", [True, False])
def test_command(tmp_path, capsys, to_file):
    location, file = str(tmp_path / "users"), tmp_path / "textfiles" / "users.prom"
    put(location, rows(20), "r0")
    assert job("metrics", location, *(["--output", file] if to_file else [])) == 0
    printed = capsys.readouterr().out
    text = Path(file).read_text() if to_file else printed
    assert text == metrics(open_table(location))
    assert bool(printed) != to_file


def test_the_last_run_whether_or_not_it_published(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0", metadata={"rates": {"users_per_second": 12.5}})
    assert gauges(metrics(open_table(location)), location)["last_publish_users_per_second"] == 12.5

    def leave(run: str, **report: object) -> dict[str, float]:
        place = tmp_path / "users" / "runs" / run
        with suppress(RuntimeError), reported(RunReport("refresh", location, run, **report), str(place)) as written:
            if written.version is None:
                raise RuntimeError("refused")
        found = json.loads((place / "report.json").read_text())
        ended = f"2024-03-0{len(list(place.parent.iterdir()))}T02:00:00+00:00"
        (place / "report.json").write_text(json.dumps({**found, "ended": ended, "seconds": {"all": 7.5}}))
        now = gauges(metrics(open_table(location)), location)
        assert now["last_run_timestamp_seconds"] == dt.datetime.fromisoformat(ended).timestamp()
        assert now["last_run_seconds"] == 7.5
        return now

    assert leave("b", failed_gates=("norm", "drift"))["last_run_failed_gates"] == 2
    assert leave("a", failed_gates=("norm",), version=1)["last_run_failed_gates"] == 0, "it was published anyway"

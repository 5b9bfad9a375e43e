"""Gauges of a table for Prometheus, from its log and reports: a gauge inside a job would die with the job's cluster."""

import datetime as dt
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Record
from ray_ggsm.tables import delta
from ray_ggsm.tables.metadata import Commit
from ray_ggsm.tables.moments import instant, parsed
from ray_ggsm.tables.reader import EmbeddingTable

PREFIX = "ray_ggsm_table_"
"""Prefix of the names of the gauges."""
HELP = {
    "last_publish_timestamp_seconds": "When a run last published a version (Unix time).",
    "version": "Newest version.",
    "rows": "Rows of the newest version.",
    "oldest_as_of_timestamp_seconds": "Oldest as_of of the newest version (Unix time).",
    "newest_as_of_timestamp_seconds": "Newest as_of of the newest version (Unix time).",
    "failed_gates": "Gates that failed for the newest version, which was published all the same.",
    "encoded_rows": "Rows whose vectors the last publishing run computed.",
    "dead_letters": "Rows of that run that got no vector.",
    "last_publish_users_per_second": "Users per second that it encoded.",
    "last_run_timestamp_seconds": "When the last run with a report ended, whether or not it published (Unix time).",
    "last_run_seconds": "How long it took.",
    "last_run_failed_gates": "Gates that kept it from publishing.",
}


class _Report(Record):
    """What the gauges take of a run's report (`ray_ggsm.building.report`)."""

    ended: str = ""
    """ISO, UTC; empty: it does not say, and is left out."""
    version: int | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    failed_gates: tuple[str, ...] = ()


def metrics(table: EmbeddingTable) -> str:
    """The gauges of a table in Prometheus' text format, with the label `table`; what no version records is left out.

    Raises:
        InputError: the log is incomplete or damaged.
    """
    return exposition(table.location, {name: (HELP[name], value) for name, value in _gauges(table).items()})


def exposition(location: str, gauges: Mapping[str, tuple[str, float]]) -> str:
    """Gauges (name without PREFIX -> help and value) in Prometheus' text format, with the label `table`."""
    registry, table = CollectorRegistry(), storage.without_credentials(location)
    for name, (help_, value) in gauges.items():
        Gauge(PREFIX + name, help_, ["table"], registry=registry).labels(table).set(value)
    return generate_latest(registry).decode()


def _gauges(table: EmbeddingTable) -> dict[str, float]:
    """Gauge -> its value."""
    newest = table.metadata()
    found: dict[str, float | None] = {"version": table.version, "rows": newest.rows}
    found["failed_gates"] = len(newest.failed_gates)
    if newest.ages:
        moments = [instant(parsed(text, "ages"), None).timestamp() for text in newest.ages]
        found["oldest_as_of_timestamp_seconds"] = min(moments)
        found["newest_as_of_timestamp_seconds"] = max(moments)
    if publish := last_publish(table):
        found["last_publish_timestamp_seconds"] = publish.timestamp.timestamp()
        if counts := publish.metadata.counts:
            found["encoded_rows"], found["dead_letters"] = counts.encoded, counts.dead_letters
        found["last_publish_users_per_second"] = publish.metadata.rates.get("users_per_second")
    if run := _last_run(table.location):
        found["last_run_timestamp_seconds"] = dt.datetime.fromisoformat(run.ended).timestamp()
        found["last_run_seconds"] = run.seconds.get("all")
        found["last_run_failed_gates"] = len(run.failed_gates) if run.version is None else 0
    return {name: value for name, value in found.items() if value is not None}


def last_publish(table: EmbeddingTable) -> Commit | None:
    """The newest commit of a run, found without reading the whole log."""
    for version in range(table.version, -1, -1):
        (commit,) = delta.history(table.location, version, version)
        if commit.operation == "publish":
            return commit
    return None


def _last_run(location: str) -> _Report | None:
    """The report of the run that ended last, of those that `vacuum` has left."""
    files = storage.glob(storage.join(location, "runs", "*", "report.json"))
    reports = (_Report.model_validate_json(storage.read_text(file)) for file in files)
    return max((report for report in reports if report.ended), key=lambda report: report.ended, default=None)

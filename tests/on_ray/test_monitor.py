"""The monitor job on made-up nightly tables: what decays at a known night, what does not, and what cannot be told."""

import csv
import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from ray_ggsm import storage
from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.config import InputError, NotNow, build
from ray_ggsm.data.config import DataConfig
from ray_ggsm.evaluation.monitor import MonitorResult
from ray_ggsm.experiment import Experiment, RayConfig
from ray_ggsm.hashing import hash64
from ray_ggsm.on_ray.ingest import IngestConfig, ingest
from ray_ggsm.on_ray.monitor import MonitorConfig, monitor, preview
from ray_ggsm.on_ray.prepare import matured_labels
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables.metadata import VersionMetadata
from ray_ggsm.tables.schema import rows_to_table
from tests.helpers.clicks import changed, write_click_log, write_config
from tests.helpers.tables import put

U, D, NIGHTS = 500, 4, 4
FIRST = dt.date(2024, 1, 1)
USERS = [f"u{n}" for n in range(U)]


def moment(period: int) -> dt.datetime:
    return dt.datetime.combine(FIRST + dt.timedelta(days=30 * period), dt.time(), dt.UTC)


Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def same(vector_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return vector_ND


def forgets(vector_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=vector_ND.shape)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., MonitorConfig]:
    """Publishes one version per period, with vectors that are `changed` from period 2 on, and writes the labels."""

    def build(changed: Change = same, encoders: str = "aaaa", without: int = 0, **settings) -> MonitorConfig:
        rng = np.random.default_rng(3)
        parts = []
        for period, encoder in enumerate(encoders):
            trait_ND = rng.normal(size=(U, D))
            buys = 2.5 * trait_ND[:, 0] + rng.logistic(size=U) > 0
            vector_ND = changed(trait_ND, rng) if period >= 2 else trait_ND
            night = pa.array([moment(period)] * (U - without), pa.timestamp("us", "UTC"))
            numbers = np.arange(U - without)
            rows = rows_to_table(pa.array(USERS[without:]), night, "default", numbers, numbers,
                                 vector_ND[without:].astype(np.float32), f"enc-{encoder}", f"r{period}")  # fmt: skip
            put(str(tmp_path / "table"), rows, f"r{period}", metadata=VersionMetadata(encoder=f"enc-{encoder}"))
            # labels of the noon after the night: the newest vector is that of the night, never that of a later one
            times = pa.array([moment(period) + dt.timedelta(hours=12)] * U, pa.timestamp("us", "UTC"))
            parts.append(pa.table({"user_id": USERS, "as_of": times, "buys": buys}))
        for number, part in enumerate(parts):
            pq.write_table(part, tmp_path / f"labels-{number}.parquet")
        values = {
            "table": str(tmp_path / "table"),
            "labels": {"files": str(tmp_path / "labels-*.parquet"), "future_days": 30},
            "first": FIRST,
            "as_of": FIRST + dt.timedelta(days=30 * len(encoders) + 1),
            "output": str(tmp_path / "out"),
            "evaluation": {"folds": 3, "linear": {"strengths": (0.1,)}},
            **settings,
        }
        return MonitorConfig.model_validate(values)

    return build


def gauges(output: Path) -> dict[str, float]:
    lines = [line for line in (output / "metrics.prom").read_text().splitlines() if not line.startswith("#")]
    return {re.match(r"ray_ggsm_table_(\w+)", line)[1]: float(line.split()[-1]) for line in lines}


def test_vectors_that_forget_from_a_known_night_on(config: Callable, tmp_path: Path, capsys) -> None:
    asked = config(forgets)
    assert "4 periods of 30 days" in preview(asked)
    result = monitor(asked)
    assert [period.aucs.verdict for period in result.periods] == ["reference", "holds", "retrain", "retrain"]
    assert [period.rows for period in result.periods] == [U] * 4
    assert result.periods[1].aucs.auc["fixed"]["buys"].value > 0.8
    assert abs(result.periods[2].aucs.auc["fresh"]["buys"].value - 0.5) < 0.1
    assert MonitorResult.model_validate_json((tmp_path / "out" / "monitor.json").read_text()) == result
    found = gauges(tmp_path / "out")
    assert (found["retraining_due"], found["refitting_due"]) == (1, 0)
    assert found["fixed_probe_auc_change"] == result.periods[3].aucs.change["fixed"]["mean"].value
    assert found["matured_period_timestamp_seconds"] == moment(3).timestamp()
    printed = capsys.readouterr().out
    assert "train the encoder anew: in the period from 2024-03-31 on" in printed
    page = (tmp_path / "out" / "monitor.html").read_text()
    assert "Train the encoder anew" in page
    assert page.count("<svg") > 2
    assert not re.search(r"\bu\d+\b", printed + page)  # no user is named


def test_vectors_that_stay(config: Callable, tmp_path: Path) -> None:
    result = monitor(config(encoders="aaa"))
    assert [period.aucs.verdict for period in result.periods] == ["reference", "holds", "holds"]
    assert gauges(tmp_path / "out")["retraining_due"] == 0


def test_another_encoder_begins_with_a_reference_of_its_own(config: Callable, tmp_path: Path) -> None:
    """Its coordinates are others, which no probe of the encoder before can be blamed for."""
    result = monitor(config(lambda vector_ND, rng: -vector_ND, encoders="aabb"))
    assert [period.aucs.verdict for period in result.periods] == ["reference", "holds", "reference", "holds"]
    assert [period.encoder for period in result.periods] == ["enc-a", "enc-a", "enc-b", "enc-b"]
    (note,) = result.notes
    assert note.startswith("encoder enc-b is in use from the period of 2024-03-01 on, which is its reference")
    alone = monitor(config(lambda vector_ND, rng: -vector_ND, encoders="aab", output=str(tmp_path / "alone")))
    assert alone.verdict == "reference"


def test_what_is_left_out_is_counted(config: Callable, tmp_path: Path) -> None:
    asked = config(encoders="aaa", without=20, as_of=FIRST + dt.timedelta(days=80), users=300)
    result = monitor(asked)
    assert [period.first for period in result.periods] == ["2024-01-01", "2024-01-31"]
    assert all(period.rows + period.without_vector == 300 for period in result.periods)
    assert result.periods[0].without_vector > 0
    assert result.notes[0].startswith("500 label rows were left out: their period, from 2024-03-01 on, has labels")
    assert result.notes[1] == "300 of 500 users with labels are followed, always the same ones"
    few = monitor(asked.model_copy(update={"retrain_when": asked.retrain_when.model_copy(update={"min_users": 200})}))
    assert few.verdict == "too few labels"
    assert "a number needs 200 of each" in few.periods[0].aucs.too_few[0]


def test_mistakes_and_what_is_too_early(config: Callable, tmp_path: Path, capsys) -> None:
    asked = config(encoders="a")
    file = tmp_path / "monitor.yaml"
    file.write_text(yaml.safe_dump(json.loads(asked.model_dump_json())))
    for settings, code, sentence in (
        (["as_of=2024-01-30"], 4, "labels of 2024-01-01 are known 30 days later, on 2024-01-31"),
        (["labels.files=nothing-*.parquet"], 2, "labels.files: no file matches 'nothing-*.parquet'"),
        (["labels=null"], 2, "labels, experiment: give one of them"),
    ):
        arguments = ["--config", str(file), *(part for s in settings for part in ("--set", s))]
        assert run(JOBS["monitor"], arguments) == code, settings
        assert sentence in capsys.readouterr().err
    assert run(JOBS["monitor"], ["--config", str(file), "--as-of", "2024-01-30"]) == 4
    # published after the label's moment, as all of this table is: nobody could have had the vectors
    assert run(JOBS["monitor"], ["--config", str(file), "--set", "published_by_moment=true"]) == 0
    assert "no row has a vector" in capsys.readouterr().out


def test_labels_of_events_are_those_of_prepare(experiment: Callable, finished: Experiment, tmp_path: Path) -> None:
    """Made for the days of the test split they are its labels, thresholds included; here also for other users."""
    data: DataConfig = finished.data
    split = finished.probe_splits[1]
    days = [data.snapshots.dates[k] for k in data.splits[split].cutoffs]
    matured = matured_labels(data, days, 10**6, str(tmp_path), finished.ray)
    found, newest = matured.found.labels, matured.newest
    assert not list(tmp_path.iterdir()), "what is laid out by user names users"
    expected = pq.read_table(Pipeline.of(finished).prepare.labels(split)).to_pylist()
    by_key = {(row["user_id"], row["as_of"]): row for row in found.to_pylist()}
    assert len(by_key) == len(found) > len(expected) > 0
    assert [by_key[row["user_id"], row["as_of"]] for row in expected] == expected
    assert newest is not None
    assert newest > max(days)


@pytest.mark.parametrize("day", [dt.date.today() + dt.timedelta(days=3), dt.date.max])
def test_what_has_not_come_yet_is_refused(config: Callable[..., MonitorConfig], day: dt.date) -> None:
    with pytest.raises(InputError, match=rf"as_of: labels are known up to today, .*, found {day}"):
        preview(config(as_of=day))


@pytest.mark.parametrize("settings", [{"seed": -1}, {"period_days": 10**9}])
def test_numbers_that_no_run_can_use(config: Callable[..., MonitorConfig], settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        config(**settings)


def click_days(place: Path) -> dict[str, list[dict[str, str]]]:
    """The click log in two files; returns its records by day."""
    write_click_log(place / "clicks.csv")
    days: dict[str, list[dict[str, str]]] = {}
    with (place / "clicks.csv").open() as opened:
        for row in csv.DictReader(opened):
            days.setdefault(row["ts"][:10], []).append(row)
    days = {day: rows for day, rows in days.items() if day.startswith("2024")}
    for part, is_part in {"until": lambda day: day <= "2024-02-27", "after": lambda day: day > "2024-02-27"}.items():
        with (place / f"{part}.csv").open("w") as opened:
            writer = csv.DictWriter(opened, ["uid", "ts", "kind", "page", "item", "price"])
            writer.writeheader()
            writer.writerows(row for day, rows in days.items() if is_part(day) for row in rows)
    return days


def test_labels_of_a_store_after_its_training_period(values: dict[str, Any], tmp_path: Path) -> None:
    """Whether somebody buys is counted in the log itself; the last future of training ends weeks before."""
    days, store = click_days(tmp_path), str(tmp_path / "store")
    for part in ("until", "after"):  # the end of training's last future
        tables = {"clicks": {"files": f"{tmp_path}/{part}.csv", "user": "uid", "time": "ts"}}
        ingest(build(IngestConfig, {"store": store, "tables": tables, "buckets": 3}, "test"))
    cutoffs = {"first": "2024-01-15", "every_days": 7, "count": 5}
    source = {"kind": "store", "location": store}
    days_of = {"data__snapshots__cutoffs": cutoffs, "data__snapshots__future_days": 7}
    asked = changed(values, data__source=source, **days_of)
    moments = [dt.date(2024, 3, 3), dt.date(2024, 4, 1), dt.date(2024, 4, 13)]
    data = build(Experiment, asked, "test").data
    matured = matured_labels(data, moments, 10**6, str(tmp_path / "out"), RayConfig())
    found, newest = matured.found.labels, matured.newest
    assert newest == dt.date.fromisoformat(max(days))
    expected = {}
    for moment in moments:
        earlier = [str(moment - dt.timedelta(days=n)) for n in range(1, 31)]
        later = [str(moment + dt.timedelta(days=n)) for n in range(7)]
        buyers = {row["uid"] for day in later for row in days.get(day, ()) if row["kind"] == "buy"}
        for user in {row["uid"] for day in earlier for row in days.get(day, ())}:
            expected[user, moment] = user in buyers
    assert {(row["user_id"], row["as_of"].date()): row["buys"] for row in found.to_pylist()} == expected
    assert len(found) == len(expected)


def test_what_is_laid_out_by_user_is_made_anew_for_other_settings(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time format that is wrong is corrected; so are the time zone and the shards of a run that was killed."""
    click_days(tmp_path)
    table = {"files": f"{tmp_path}/clicks.csv", "user": "uid", "time": "ts"}
    moments, place = [dt.date(2024, 3, 3)], tmp_path / "out"

    def labels(shards: int = 2, **settings: str) -> list[dict[str, Any]]:
        source = {"kind": "files", "tables": {"clicks": table | settings}}
        data = build(Experiment, changed(values, data__source=source, data__shards=shards), "test").data
        found = matured_labels(data, moments, 10**6, str(place), RayConfig()).found.labels
        return sorted(found.to_pylist(), key=lambda row: row["user_id"])

    expected, far_away = labels(shards=1), labels(shards=1, timezone="Asia/Tokyo")
    assert expected != far_away
    with pytest.raises(InputError, match="rows cannot be used"):
        labels(time_format="%d.%m.%Y")
    assert not place.exists() or not list(place.iterdir())
    assert labels() == expected
    assert not list(place.iterdir())
    with monkeypatch.context() as killed:
        killed.setattr(storage, "remove", lambda location: None)
        assert labels(timezone="Asia/Tokyo") == far_away
    assert list(place.iterdir())
    assert labels() == expected
    assert labels(shards=3) == expected


def test_labels_of_events_that_are_not_known_yet(
    config: Callable[..., MonitorConfig], values: dict[str, Any], tmp_path: Path
) -> None:
    """The last click is of 19 April, so labels of 8 April are not known, and those of 9 March and 24 March are."""
    days = click_days(tmp_path)
    source = {"kind": "files", "tables": {"clicks": {"files": f"{tmp_path}/clicks.csv", "user": "uid", "time": "ts"}}}
    file = write_config(
        tmp_path / "experiment.yaml", changed(values, data__source=source, data__snapshots__history_days=2)
    )
    asked = config(
        labels=None, experiment=file, first=dt.date(2024, 3, 9), period_days=15, as_of=dt.date(2024, 4, 30), users=100
    )
    result = monitor(asked)
    active = {
        first: {row["uid"] for n in (1, 2) for row in days.get(str(dt.date.fromisoformat(first) - dt.timedelta(n)), ())}
        for first in ("2024-03-09", "2024-03-24", "2024-04-08")
    }
    assert [period.first for period in result.periods] == ["2024-03-09", "2024-03-24"]
    assert [period.rows for period in result.periods] == [len(active["2024-03-09"]), len(active["2024-03-24"])]
    assert result.notes[0].startswith(
        f"{len(active['2024-04-08'])} label rows were left out: their periods, from 2024-04-08"
    )
    few = asked.model_copy(update={"users": 10})  # less than a config may ask for
    found = monitor(few)
    everybody = sorted(active["2024-03-09"] | active["2024-03-24"], key=lambda user: int(hash64([user])[0]))
    assert f"10 of {len(everybody)} users with labels are followed, always the same ones" in found.notes
    mine = set(everybody[:10])
    assert [period.rows for period in found.periods] == [
        len(active[first] & mine) for first in ("2024-03-09", "2024-03-24")
    ]
    with pytest.raises(
        NotNow, match=r"no label row has matured; .* from 2024-04-12 on, .* newest event is of 2024-04-19"
    ):
        monitor(asked.model_copy(update={"first": dt.date(2024, 4, 12)}))

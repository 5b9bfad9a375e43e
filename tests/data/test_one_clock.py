"""Windows, ages, `days_away` and hours follow one calendar, that of the snapshots, across changes of the clocks."""

import datetime as dt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from ray_ggsm.data import prepare
from ray_ggsm.model.events import history_events, sample_future_events
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.template import Template
from tests.helpers.data import data_config

TEMPLATE = Template((Modality("view", 100),), 0, 8)


def prepared(clicks: dict[str, Any], zone: str, cutoff: str, local_times: list[str]) -> Any:
    """The one row of a user with events at these local times (with an offset where it matters), prepared."""
    clicks["source"]["tables"]["clicks"]["timezone"] = zone
    Path("clicks.csv").write_text("uid,ts,item\n" + "".join(f"a,{time},{i}\n" for i, time in enumerate(local_times)))
    clicks["modalities"]["view"] = {"table": "clicks", "text": "{item}", "keep": 100}
    clicks["snapshots"] |= {"timezone": zone, "cutoffs": [cutoff], "history_days": 3, "future_days": 3}
    clicks["splits"] = {"pretrain": {"role": "train", "users": "all", "cutoffs": [0]}}
    clicks["labels"] = {}
    clicks["features"] = [
        {"name": "far", "table": "clicks", "sql": "max(days_away)"},
        {"name": "near", "table": "clicks", "sql": "min(days_away)"},
        {"name": "n", "table": "clicks", "sql": "count(*)", "windows": [1, 2]},
        {"name": "noon", "table": "clicks", "sql": "count(*) filter (hour(ts) = 12 and days_away * 24 % 24 = 12)"},
    ]
    config = data_config(clicks)
    fitted = prepare.fit(config)
    prepare.write_shard(config, fitted, 0, 1, "out")
    return pq.read_table("out/rows/pretrain")


@pytest.mark.parametrize("cutoff", ["2024-04-01", "2024-10-28"])
def test_noon_is_half_a_day_before_midnight_across_a_change(clicks, tmp_path, monkeypatch, cutoff: str) -> None:
    monkeypatch.chdir(tmp_path)
    midnight = dt.datetime.fromisoformat(cutoff)
    days = [midnight - dt.timedelta(days=k) for k in (-1, 0, 1, 2, 3)]
    rows = prepared(clicks, "Europe/Berlin", cutoff, [f"{day:%Y-%m-%d} 12:00:00" for day in days])
    [row] = rows.to_pylist()
    assert row["as_of"] == midnight.replace(tzinfo=ZoneInfo("Europe/Berlin"))
    assert rows.schema.field("as_of").type.tz == "Europe/Berlin"
    assert row["tabular"] == [2.5, 0.5, 1, 2, 3]
    assert history_events(rows, TEMPLATE.modalities).age_E.tolist() == [2.5, 1.5, 0.5]
    assert sample_future_events(rows, TEMPLATE.modalities, 9, 0).age_E.tolist() == [-0.5, -1.5]


def test_a_day_whose_midnight_is_skipped(clicks, tmp_path, monkeypatch) -> None:
    """Santiago goes from 23:59 of 7 September to 1:00 of the 8th: that is where 'today' begins."""
    monkeypatch.chdir(tmp_path)
    times = ["2024-09-04 23:30", "2024-09-05 00:30", "2024-09-07 23:30", "2024-09-08 01:00", "2024-09-10 23:30"]
    rows = prepared(clicks, "America/Santiago", "2024-09-08", [*times, "2024-09-11 00:00"])
    [row] = rows.to_pylist()
    assert [event["text"] for event in row["view"]] == ["1", "2"]
    assert [event["text"] for event in row["future"]] == ["3", "4"]
    ages = [3 - 0.5 / 24, 0.5 / 24]
    assert history_events(rows, TEMPLATE.modalities).age_E.tolist() == pytest.approx(ages)
    assert row["tabular"][:4] == pytest.approx([*ages, 1, 1])
    drawn = sample_future_events(rows, TEMPLATE.modalities, 9, 0)
    assert drawn.age_E.tolist() == pytest.approx([-1 / 24, -3 + 0.5 / 24])


def test_windows_that_end_at_a_skipped_or_repeated_midnight(clicks, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = prepared(clicks, "America/Santiago", "2024-09-11", ["2024-09-07 23:59", "2024-09-08 01:00"])
    assert [event["text"] for event in rows.to_pylist()[0]["view"]] == ["1"]
    # Havana shows 0:00 to 0:59 of 3 November twice; the day begins with the first
    twice = ["2024-11-02 23:59-04:00", "2024-11-03 00:30-04:00", "2024-11-03 00:30-05:00"]
    rows = prepared(clicks, "America/Havana", "2024-11-06", twice)
    assert [event["text"] for event in rows.to_pylist()[0]["view"]] == ["1", "2"]
    rows = prepared(clicks, "America/Havana", "2024-11-03", twice)
    [row] = rows.to_pylist()
    assert [event["text"] for event in row["view"]] == ["0"]
    assert [event["text"] for event in row["future"]] == ["1", "2"]
    assert row["tabular"][0] == pytest.approx(1 / 24 / 60)


def test_days_away_is_the_age_that_the_encoder_sees(clicks, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    times = ["2024-03-08 23:10:09", "2024-03-09 05:06:07", "2024-03-10 03:00:00", "2024-03-10 22:11:10.5"]
    rows = prepared(clicks, "America/New_York", "2024-03-11", times)
    ages = history_events(rows, TEMPLATE.modalities).age_E
    assert rows["tabular"].to_pylist()[0][:2] == [float(ages.max()), float(ages.min())]
    naive = [(dt.datetime(2024, 3, 11) - dt.datetime.fromisoformat(time)).total_seconds() / 86400 for time in times]
    assert ages.tolist() == pytest.approx(naive)

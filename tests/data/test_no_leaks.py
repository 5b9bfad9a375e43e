"""Properties: which events a row holds does not depend on how the files are cut, ordered, typed and written."""

import datetime as dt
import gzip
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_ggsm.data import prepare
from tests.helpers.data import data_config

Event = tuple[str, dt.datetime, str]
"""User, instant, text."""
KEEP, HISTORY, FUTURE = 3, 20, 10
CUTOFFS = [dt.date(2024, 3, 31), dt.date(2024, 9, 8), dt.date(2024, 11, 3)]
"""A change of the clocks in Europe, one at midnight in Santiago, one in Havana."""
ZONES = ["UTC", "Europe/Berlin", "America/Santiago", "America/Havana", "America/New_York"]
KINDS = ["csv", "csv.gz", "json", "parquet ns", "polars", "parquet text"]


@st.composite
def events(draw: st.DrawFn) -> list[Event]:
    """Events of five users, many of them near the edges of windows, no two of a user at one moment."""
    edges = [dt.datetime.combine(day, dt.time()) + dt.timedelta(days=d) for day in CUTOFFS for d in (-20, 0, 10)]
    near = st.sampled_from([-3600, -1, 0, 1, 1800, 3599, 3600, 7200])
    moments = st.builds(
        lambda edge, seconds, hours: edge + dt.timedelta(seconds=seconds, hours=hours),
        st.sampled_from(edges),
        near,
        st.integers(-12, 12) | st.integers(-600, 600),
    )
    found = draw(st.lists(st.tuples(st.sampled_from("abcde"), moments), min_size=1, max_size=40, unique=True))
    return [(user, moment.replace(tzinfo=dt.UTC), f"e{i}") for i, (user, moment) in enumerate(found)]


def write(kind: str, part: list[Event], zone: str, file: Path) -> None:
    """One file; its times are written as its kind would have them."""
    offset = dt.timezone(dt.timedelta(hours=5, minutes=30))
    rows = [{"uid": user, "ts": time.astimezone(offset).isoformat(), "item": text} for user, time, text in part]
    if kind == "csv":
        file.write_text("uid,ts,item\n" + "".join(f"{r['uid']},{r['ts']},{r['item']}\n" for r in rows))
    elif kind == "csv.gz":
        names = [f"{time:%Y-%m-%d %H:%M:%S} UTC" for _, time, _ in part]
        lines = [f'"{r["item"]}","{name}",{r["uid"]}\r\n' for r, name in zip(rows, names, strict=True)]
        file.write_bytes(gzip.compress(("item,ts,uid\r\n" + "".join(lines)).encode()))
    elif kind == "json":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet text":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif kind == "parquet ns":
        times = pa.array([time for _, time, _ in part], pa.timestamp("ns", zone))
        pq.write_table(pa.Table.from_pylist(rows).set_column(1, "ts", times), file, row_group_size=2)
    else:
        pl.DataFrame(rows).with_columns(ts=pl.Series([time for _, time, _ in part])).write_parquet(file)


def prepared(config: dict[str, Any], shards: int) -> dict[str, pa.Table]:
    """Split -> its rows, sorted by user and cutoff."""
    checked = data_config(config)
    prepare.check(checked)
    fitted = prepare.fit(checked, shards)
    shutil.rmtree("out", ignore_errors=True)
    for shard in range(shards):
        prepare.write_shard(checked, fitted, shard, shards, "out")
    order = [("user_id", "ascending"), ("as_of", "ascending")]
    directories = {split: sorted(Path("out/rows", split).glob("*")) for split in config["splits"]}
    return {
        split: pa.concat_tables([pq.read_table(file) for file in files]).sort_by(order)
        for split, files in directories.items()
        if files
    }


def expected(history: list[Event], zone: str, split: str) -> list[dict[str, Any]]:
    """The rows by hand: windows from midnight to midnight of the zone, users by the MD5 sum."""

    def midnight(day: dt.date) -> dt.datetime:
        return dt.datetime.combine(day, dt.time(), ZoneInfo(zone)).astimezone(dt.UTC)

    rows = []
    for user in "abcde":
        is_test = int(hashlib.md5(f"salt{user}".encode()).hexdigest(), 16) % 100 >= 60
        if is_test != (split == "later"):
            continue
        own = sorted((time, text) for who, time, text in history if who == user)
        for day in CUTOFFS:
            as_of = midnight(day)
            first, last = midnight(day - dt.timedelta(HISTORY)), midnight(day + dt.timedelta(FUTURE))
            before = [text for time, text in own if first <= time < as_of]
            after = [text for time, text in own if as_of <= time < last]
            if before:
                rows.append((user, as_of, before[-KEEP:], after, len(before)))
    return [dict(zip(("user", "as_of", "view", "future", "n"), row, strict=True)) for row in rows]


@given(
    history=events(),
    zone=st.sampled_from(ZONES),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    shards=st.integers(1, 3),
    seed=st.integers(0, 999),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_hold_the_events_of_their_windows(
    clicks, tmp_path, monkeypatch, history: list[Event], zone: str, kinds: list[str], shards: int, seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree("in", ignore_errors=True)
    Path("in").mkdir()
    shuffled = random.Random(seed).sample(history, len(history))
    for i, kind in enumerate(kinds):
        if part := shuffled[i :: len(kinds)]:
            write(kind, part, zone, Path("in", f"{i} {kind}"))
    clicks["source"]["tables"]["clicks"]["files"] = "in/*"
    clicks["modalities"] = {"view": {"table": "clicks", "text": "{item}", "keep": KEEP}}
    clicks["features"] = [{"name": "n", "table": "clicks", "sql": "count(*)"}]
    clicks["labels"] = {}
    clicks["snapshots"] |= {"timezone": zone, "cutoffs": [day.isoformat() for day in CUTOFFS]}
    clicks["users"] = {"salt": "salt", "test_percent": 40}
    clicks["splits"] = {
        "pretrain": {"role": "train", "users": "train", "cutoffs": [0, 1, 2]},
        "later": {"users": "test", "cutoffs": [0, 1, 2], "future": True},
    }
    found = prepared(clicks, shards)
    for split in clicks["splits"]:
        rows = found[split].to_pylist() if split in found else []
        assert [
            {
                "user": row["user_id"],
                "as_of": row["as_of"].astimezone(
                    dt.UTC
                ),  # Python calls no two zones' times equal where one comes twice
                "view": [event["text"] for event in row["view"]],
                "future": [event["text"] for event in row["future"]],
                "n": row["tabular"][0],
            }
            for row in rows
        ] == expected(history, zone, split)
        for row in rows:
            assert all(event["time"] < row["as_of"] for event in row["view"])
            assert all(event["time"] >= row["as_of"] for event in row["future"])


@pytest.mark.parametrize("zone", ZONES)
def test_the_same_events_give_the_same_bits(clicks, tmp_path, monkeypatch, zone: str) -> None:
    """One file of each kind, alone."""
    monkeypatch.chdir(tmp_path)
    start = dt.datetime(2024, 3, 20, tzinfo=dt.UTC)
    history = [("ab"[i % 2], start + dt.timedelta(hours=7 * i), f"e{i}") for i in range(40)]
    clicks["modalities"] = {"view": {"table": "clicks", "text": "{item}", "keep": KEEP}}
    clicks["snapshots"] |= {"timezone": zone, "cutoffs": ["2024-03-31"]}
    clicks["splits"] = {"pretrain": {"role": "train", "users": "all", "cutoffs": [0]}}
    clicks["labels"] = {}
    found = {}
    for kind in KINDS:
        write(kind, history, zone, Path(kind))
        clicks["source"]["tables"]["clicks"]["files"] = kind
        found[kind] = prepared(clicks, 1)["pretrain"]
    assert len(found["csv"]) == 2
    assert all(rows.equals(found["csv"], check_metadata=True) for rows in found.values())

"""The engine against an independent pure-Python reference, and its invariants."""

import hashlib
import json
import random
from collections import Counter
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.data import prepare
from ray_ggsm.data.keep import Vectors
from ray_ggsm.data.schema import feature_names
from tests.helpers.data import CONFIGS, data_config, shipped

NEW_YORK = ZoneInfo("America/New_York")


def run(config, location, shards=1):
    fitted = prepare.fit(config, shards)
    counts = [prepare.write_shard(config, fitted, k, shards, str(location)) for k in range(shards)]
    return prepare.write_summary(config, fitted, counts, str(location))


def rows_of(location, split):
    return pq.read_table(f"{location}/rows/{split}").to_pylist()


def labels_of(location, split):
    table = pq.read_table(f"{location}/labels/{split}").to_pylist()
    return {(row.pop("user_id"), row.pop("as_of")): row for row in table}


@pytest.fixture
def world(tmp_path, monkeypatch, clicks):
    """Random clicks in New York around the change to daylight saving on 2024-03-10; the config and the events."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(5)
    events = []
    for _ in range(700):
        when = datetime(2024, 2, 5) + timedelta(minutes=draw.randrange(55 * 24 * 60))
        price = draw.choice([None, draw.randrange(1, 900) / 100])
        events.append((str(draw.randrange(23)), when, draw.choice("abcd"), price))
    lines = [f"{u},{t.isoformat()},{i},{'' if p is None else p}" for u, t, i, p in events]
    (tmp_path / "clicks.csv").write_text("\n".join(["uid,ts,item,price", *lines]) + "\n")
    clicks["source"]["tables"]["clicks"]["timezone"] = "America/New_York"
    clicks["snapshots"]["timezone"] = "America/New_York"
    clicks["users"] = {"salt": "s-", "test_percent": 40}
    clicks["splits"]["test"] = {"role": "score", "users": "test", "cutoffs": [1, 2]}
    clicks["features"] = [
        {"name": "n", "table": "clicks", "sql": "count(*)", "windows": [7, 20]},
        {"name": "since", "table": "clicks", "sql": "min(days_away)", "empty": 99},
        {"name": "spend", "table": "clicks", "sql": "sum(price)", "per": "item", "top": 2},
    ]
    clicks["labels"] |= {
        "soon": {"group": "g", "table": "clicks", "sql": "min(ts) < as_of + interval 3 day"},
        "near": {"group": "g", "table": "clicks", "sql": "count(*) filter (days_away < 3) > 0"},
        "much": {
            "group": "g",
            "table": "clicks",
            "sql": "sum(price)",
            "above_quantile": 0.5,
            "defined_if": "count(*) >= 2",
        },
    }
    return clicks, [(u, t.replace(tzinfo=NEW_YORK), i, p) for u, t, i, p in events]


def midnight(day):
    return datetime.combine(day, datetime.min.time(), NEW_YORK)


def test_rows_features_and_labels_equal_a_plain_reference(world, tmp_path):
    values, events = world
    config = data_config(values)
    summary = run(config, tmp_path / "out", shards=3)
    for split, spec in config.splits.items():
        found = {(r["user_id"], r["as_of"]): r for r in rows_of(tmp_path / "out", split)}
        answers = labels_of(tmp_path / "out", split)
        assert list(found) == list(answers)
        expected = {}
        for day in (config.snapshots.dates[k] for k in spec.cutoffs):
            start, cut, end = (midnight(day + timedelta(days=d)) for d in (-20, 0, 10))
            for user in {u for u, *_ in events}:
                is_test = int(hashlib.md5(f"s-{user}".encode()).hexdigest(), 16) % 100 >= 60
                mine = (
                    sorted((t, i, p) for u, t, i, p in events if u == user) if is_test == (spec.users == "test") else []
                )
                history = [e for e in mine if start.timestamp() <= e[0].timestamp() < cut.timestamp()]
                future = [e for e in mine if cut.timestamp() <= e[0].timestamp() < end.timestamp()]
                if history:
                    expected[user, cut.astimezone(ZoneInfo("UTC"))] = (cut, history, future)
        assert set(found) == set(expected)
        for key, (cut, history, future) in expected.items():
            row, answer = found[key], answers[key]
            assert [e["time"].timestamp() for e in row["view"]] == [e[0].timestamp() for e in history[-3:]]
            if spec.role == "train":
                assert [e["text"] for e in row["future"]] == [e[1] for e in future]
            week = midnight((cut - timedelta(days=7)).date()).timestamp()
            spend = [sum(p or 0 for _, i, p in history if i == v) for v in summary.vocabularies["spend"]]
            numbers = [sum(t.timestamp() >= week for t, *_ in history), len(history)]
            np.testing.assert_allclose([*row["tabular"][:2], *row["tabular"][3:]], [*numbers, *spend], rtol=1e-5)
            soon = midnight((cut + timedelta(days=3)).date()).timestamp()
            assert answer["active"] == bool(future)
            assert answer["soon"] == answer["near"] == any(t.timestamp() < soon for t, *_ in future)
            total = sum(p or 0 for *_, p in future)
            assert answer["much"] == (None if len(future) < 2 else total > summary.thresholds["much"])


def test_sharding_and_threads_change_nothing(world, tmp_path):
    values, _ = world
    config = data_config(values)
    one, five = run(config, tmp_path / "one"), run(config, tmp_path / "five", shards=5)
    assert one == five
    for split in config.splits:
        key = lambda row: (row["user_id"], row["as_of"])  # noqa: E731
        assert sorted(rows_of(tmp_path / "one", split), key=key) == sorted(rows_of(tmp_path / "five", split), key=key)
    again = tmp_path / "again"
    run(config, again)
    name = "rows/pretrain/part-00000-of-00001.parquet"
    assert (again / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_order_is_shuffled_and_features_are_named(world, tmp_path):
    values, _ = world
    summary = run(data_config(values), tmp_path / "out")
    table = pq.read_table(tmp_path / "out/rows/pretrain/part-00000-of-00001.parquet")
    users = table["user_id"].to_pylist()
    assert users != sorted(users)
    assert feature_names(table.schema) == summary.features
    assert summary.features[:3] == ("n_7d", "n_20d", "since")
    assert summary.model_dump(mode="json") == json.loads((tmp_path / "out/data.json").read_text())


def test_later_events_never_change_histories(world, tmp_path):
    values, events = world
    config = data_config(values)
    run(config, tmp_path / "before")
    lines = (tmp_path / "clicks.csv").read_text().splitlines()
    cut = midnight(config.snapshots.dates[0])
    kept = [line for line, e in zip(lines[1:], events, strict=True) if e[1] < cut]
    (tmp_path / "clicks.csv").write_text("\n".join([lines[0], *kept, "0,2024-03-29T00:00:00,z,9"]) + "\n")
    values["splits"] = {"pretrain": values["splits"]["pretrain"]}
    del values["labels"]["much"], values["features"][2]
    run(data_config(values), tmp_path / "after")
    strip = [
        {k: v for k, v in r.items() if k in ("user_id", "as_of", "view")}
        for r in rows_of(tmp_path / "before", "pretrain")
    ]
    assert strip == [{k: r[k] for k in ("user_id", "as_of", "view")} for r in rows_of(tmp_path / "after", "pretrain")]


@pytest.mark.parametrize("k", [0, 1, 2])
def test_earlier_events_never_change_labels(world, tmp_path, k):
    """The planted leak: everybody buys for much one microsecond before a cutoff."""
    values, events = world
    values["labels"]["much"] = {"group": "g", "table": "clicks", "sql": "sum(price) > 800"}
    values["labels"]["before"] = {"group": "g", "table": "clicks", "sql": "bool_or(ts < as_of or days_away < 0)"}
    config = data_config(values)
    day = config.snapshots.dates[k]
    as_of = midnight(day).astimezone(ZoneInfo("UTC"))
    run(config, tmp_path / "before")
    at = f"{day - timedelta(days=1)}T23:59:59.999999"
    with (tmp_path / "clicks.csv").open("a") as file:
        file.write("".join(f"{user},{at},bait,9000\n" for user in sorted({u for u, *_ in events})))
    run(config, tmp_path / "after")
    for split in (name for name, spec in config.splits.items() if k in spec.cutoffs):
        before, after = (
            {key: row for key, row in labels_of(tmp_path / out, split).items() if key[1] == as_of}
            for out in ("before", "after")
        )
        assert len(before) > 5
        assert {key: after[key] for key in before} == before
        assert not any(row["before"] or row["much"] for row in after.values())
        baited = [row["view"][-1]["text"] == "bait" for row in rows_of(tmp_path / "after", split)]
        assert sum(baited) >= len(after)


def test_static_tables_give_attributes(world, tmp_path):
    values, _ = world
    (tmp_path / "people.csv").write_text("id,age,city\n1,30,Rome\n2,40,Oslo\n3,50,Rome\n")
    values["source"]["tables"]["people"] = {"files": "people.csv", "user": "id"}
    values["features"] = [
        {"name": "age", "table": "people", "sql": "max(age)", "empty": -1},
        {"name": "city", "table": "people", "sql": "count(*)", "per": "city", "top": 5},
    ]
    run(data_config(values), tmp_path / "out")
    people = {"1": [30, 1], "2": [40, 0], "3": [50, 1]}
    for row in rows_of(tmp_path / "out", "pretrain"):
        assert row["tabular"][:2] == people.get(row["user_id"], [-1, 0])


SECRETS = "SELECT 1 FROM read_text('/etc/hostname')"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("labels.active.sql", "sum(pricee) > 1", r"data\.labels\.active\.sql.*pricee.*price"),
        ("labels.active.sql", "sum(price)", r"must give true or false, but gives DOUBLE; compare"),
        ("labels.active.sql", "price > 1", r"data\.labels\.active\.sql.*GROUP BY"),
        ("labels.active.sql", "count(*) > 0; DROP TABLE clicks", r"no SQL expression"),
        ("labels.active.sql", f"({SECRETS}) > 0", r"a query inside it"),
        ("labels.active.sql", "count(*) > 0 FROM (SELECT 1)", r"one expression"),
        ("labels.active.sql", "count(*) > 0) FROM clicks) --", r"no SQL expression"),
        ("labels.active.sql", "random() > count(*)", r"uses random"),
        ("labels.active.sql", "max(ts) < current_timestamp", r"uses current_timestamp"),
        ("labels.active.sql", "row_number() over () > 1", r"window function"),
        ("labels.active.sql", "count(* > 0", r"no SQL expression"),
        ("labels.active.defined_if", "count(*)", r"data\.labels\.active\.defined_if.*true or false"),
        ("labels.active.table", "click", r"data\.labels\.active\.table: there is no table 'click'"),
        ("modalities.view.text", "{itm}", r"data\.modalities\.view\.text.*no column 'itm'"),
        ("modalities.view.text", "shoe", r"names no column"),
        ("modalities.view.where", "item", r"data\.modalities\.view\.where.*must give true or false"),
        ("modalities.view.where", "count(*) > 1", r"data\.modalities\.view\.where.*does not fit"),
        ("modalities.view.amount", "item", r"rows cannot be used|must give a number"),
        ("features.2.per", "itm", r"data\.features\.2 \(spend\)\.per"),
        ("features.0.sql", "max(item)", r"must give a number, but gives VARCHAR"),
        ("features.1.name", "n", r"'n' is given twice"),
        ("snapshots.minimum_events.table", "x", r"data\.snapshots\.minimum_events\.table"),
        ("splits.test.cutoffs", [7], r"there are 3 cutoffs"),
        ("splits.test", {"role": "score", "users": "train", "cutoffs": [1]}, r"the same future"),
        ("splits.pretrain.learn_from", [1], r"splits\.pretrain\.learn_from: only .* positions in its cutoffs"),
        ("modalities.as_of", {"table": "clicks", "text": "{item}", "keep": 1}, r"reserved names"),
    ],
)
def test_mistakes_name_the_key(world, path, value, sentence):
    values, _ = world
    target = values
    *parents, last = path.split(".")
    for key in parents:
        target = target[int(key)] if isinstance(target, list) else target[key]
    target[last] = value
    with pytest.raises(InputError, match=sentence):
        prepare.fit(data_config(values))


def test_a_split_without_rows_is_an_error(world, tmp_path):
    values, _ = world
    values["users"] = {"test_percent": 0}
    with pytest.raises(InputError, match=r"data\.splits\.test: no user has a row"):
        run(data_config(values), tmp_path / "out")


def test_infinite_features_become_dead_letters(world, tmp_path):
    values, _ = world
    values["max_bad_share"] = 1.0
    values["features"].append(
        {"name": "odd", "table": "clicks", "sql": "case when count(*) > 10 then 'inf'::double end"}
    )
    summary = run(data_config(values), tmp_path / "out")
    letters = pq.read_table(tmp_path / "out/dead_letters").to_pylist()
    assert summary.dead_letters == Counter(letter["reason"] for letter in letters)
    assert summary.dead_letters["non_finite_number"] > 0
    assert {letter["split"] for letter in letters} <= set(values["splits"])
    for split in values["splits"]:
        assert len(rows_of(tmp_path / "out", split)) == len(labels_of(tmp_path / "out", split))


def test_an_expression_that_fails_on_the_data_is_the_users_error(world):
    values, _ = world
    values["labels"]["active"] = {"group": "g", "table": "clicks", "sql": "max(item::int) > 1"}
    config = data_config(values)
    with pytest.raises(InputError, match=r"cannot be computed.*Could not convert"):
        prepare.write_shard(config, prepare.fit(config), 0, 1, "out")


@pytest.mark.parametrize("kept", [[], ["two"]])
def test_users_with_too_few_events(clicks, tmp_path, monkeypatch, kept: list[str]) -> None:
    """At 2024-03-21, with 20 days of history: what is older, or of the day itself, does not count."""
    monkeypatch.chdir(tmp_path)
    events = {
        "one": ["2024-03-01", "2024-02-28"],
        "two": ["2024-03-01", "2024-03-20"],
        "late": ["2024-03-20", "2024-03-21"],
        "old": ["2024-02-29", "2024-02-28"],
    }
    lines = [f"{user},{day},a,1" for user, days in events.items() for day in days]
    (tmp_path / "clicks.csv").write_text("\n".join(["uid,ts,item,price", *lines]) + "\n")
    clicks["snapshots"] |= {"cutoffs": ["2024-03-21"], "minimum_events": {"table": "clicks", "count": 2}}
    clicks |= {"splits": {"night": {"role": "train", "users": "all", "cutoffs": [0]}}, "labels": {}}
    config = data_config(clicks)
    moment = pa.array([datetime(2024, 3, 21, tzinfo=ZoneInfo("UTC"))] * len(kept), pa.timestamp("us", "UTC"))
    vectors = Vectors(pa.table({"user_id": pa.array(kept, pa.string()), "as_of": moment}), None) if kept else None
    counts = prepare.write_shard(config, prepare.fit(config), 0, 1, "out", vectors=vectors, name_inactive=True)
    assert counts.rows == {"night": 0 if kept else 1}
    letters = pq.read_table("out/dead_letters").to_pylist()
    assert [(letter["user_id"], letter["split"], letter["reason"], letter["detail"]) for letter in letters] == [
        (user, "night", "too_few_events", "fewer than 2 in clicks") for user in ("late", "one")
    ]
    assert counts.dead_letters == {}, "nothing was rejected"


def test_the_shipped_example(tmp_path):
    values = shipped("own_events/quickstart.yaml")
    values["source"]["tables"]["clicks"]["files"] = str(CONFIGS / "own_events/clicks.csv")
    summary = run(data_config(values), tmp_path / "out")
    assert summary.rows == {"pretrain": 3, "probe": 3, "test": 1}
    assert summary.dead_letters == {}


def test_more_cutoffs_to_train_on_leave_labels_and_features_of_other_splits_as_they_are(world, tmp_path):
    values, _ = world
    values["labels"]["many"] = {"group": "g", "table": "clicks", "sql": "count(*)", "at_least_quantile": 0.6}
    few = run(data_config(values), tmp_path / "few")
    values["splits"]["pretrain"] |= {"cutoffs": [0, 3], "learn_from": [0]}
    values["snapshots"]["cutoffs"] = [*values["snapshots"]["cutoffs"], "2024-02-28"]
    more = run(data_config(values), tmp_path / "more")
    assert more.rows["pretrain"] > few.rows["pretrain"]
    for split in ("probe", "test"):
        assert rows_of(tmp_path / "more", split) == rows_of(tmp_path / "few", split)
        assert labels_of(tmp_path / "more", split) == labels_of(tmp_path / "few", split)


def test_training_on_all_users_leaves_labels_and_features_of_other_splits_as_they_are(world, tmp_path):
    """Test users' early windows join the pretraining rows; thresholds and vocabularies still come from train users."""
    values, _ = world
    values["labels"]["many"] = {"group": "g", "table": "clicks", "sql": "count(*)", "at_least_quantile": 0.6}
    few = run(data_config(values), tmp_path / "few")
    values["splits"]["pretrain"] |= {"users": "all", "learn_from_users": "train"}
    more = run(data_config(values), tmp_path / "more")
    assert more.rows["pretrain"] > few.rows["pretrain"]
    for split in ("probe", "test"):
        assert rows_of(tmp_path / "more", split) == rows_of(tmp_path / "few", split)
        assert labels_of(tmp_path / "more", split) == labels_of(tmp_path / "few", split)
    values["splits"]["pretrain"] |= {"users": "train"}
    with pytest.raises(InputError, match=r"splits\.pretrain\.learn_from_users: only with"):
        data_config(values)


def test_less_memory_changes_nothing_and_too_little_is_told(world, tmp_path):
    config, _ = world
    run(data_config(config), tmp_path / "much")
    run(data_config(config | {"memory_gb": 0.2}), tmp_path / "less")
    for split in config["splits"]:
        assert rows_of(tmp_path / "much", split) == rows_of(tmp_path / "less", split)
    with pytest.raises(InputError, match=r"data\.memory_gb, data\.spill_gb: a shard needs more"):
        run(data_config(config | {"memory_gb": 0.001}), tmp_path / "none")

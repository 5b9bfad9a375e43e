"""More inputs as people have them: division by zero, declared types, odd names, zones, files that are no definition."""

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.data import prepare, zones
from ray_ggsm.data.definition import read_file
from ray_ggsm.data.validate import validate
from tests.helpers.data import data_config, dead_letters

Config = dict[str, Any]


def prepared(config: Config, place: str = "out") -> dict[str, dict[str, Any]]:
    """User -> row, of the train split."""
    checked = data_config(config)
    prepare.check(checked)
    fitted = prepare.fit(checked)
    counts = [prepare.write_shard(checked, fitted, 0, 1, place)]
    prepare.write_summary(checked, fitted, counts, place)
    return {row["user_id"]: row for row in pq.read_table(f"{place}/rows/pretrain").to_pylist()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clicks: Config) -> Config:
    """One table and one split, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    clicks["modalities"]["view"].pop("amount")
    clicks["splits"] = {"pretrain": {"role": "train", "users": "all", "cutoffs": [0]}}
    clicks["labels"] = {}
    return clicks


def table(config: Config, **changes: Any) -> None:
    config["source"]["tables"]["clicks"] |= changes


def test_a_share_of_nothing_is_no_number(here: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item,a,b\nu,2024-02-20,x,0,0\nu,2024-02-21,y,6,2\n")
    share = "count(*) filter (item = 'r') / count(*) > 0.2"
    here["labels"] = {
        "returns": {"group": "g", "table": "clicks", "sql": share},
        "defined": {"group": "g", "table": "clicks", "sql": "count(*) = 0", "defined_if": share},
    }
    here["features"] = [
        {"name": "share", "table": "clicks", "sql": "sum(a) filter (item = 'x') / sum(b) filter (item = 'x') > 1"},
        {"name": "n", "table": "clicks", "sql": "count(*) filter (a / b > 1)"},
        {"name": "most", "table": "clicks", "sql": "max(a / b)", "empty": -1},
    ]
    here["modalities"]["view"]["where"] = "a / b > 0.5"
    row = prepared(here)["u"]
    assert [event["text"] for event in row["view"]] == ["y"]
    assert row["tabular"] == [0, 1, 3]
    assert pq.read_table("out/labels/pretrain").to_pylist() == [
        {"user_id": "u", "as_of": row["as_of"], "returns": False, "defined": None}
    ]


@pytest.mark.parametrize(
    ("form", "written", "expected"),
    [
        ("iso", "2024-02-20T10:00:00+25:00", None),
        ("iso", "2024-02-20T10:00:00+05:99", None),
        ("iso", "2024-02-20T10:00:00+14:00", "2024-02-19 20:00"),
        ("%Y-%m-%d %H:%M %Z", "2024-02-20 10:00 BST", None),  # London, Dhaka or Bougainville
        ("%Y-%m-%d %H:%M %Z", "2024-02-20 10:00 CST", None),
        ("%Y-%m-%d %H:%M %Z", "2024-02-20 10:00 UTC", "2024-02-20 10:00"),
        ("%Y-%m-%d %H:%M %Z", "2024-02-20 10:00 Europe/Berlin", "2024-02-20 09:00"),
    ],
)
def test_zones_that_are_none(here: Config, form: str, written: str, expected: str | None) -> None:
    Path("clicks.csv").write_text(f"uid,ts,item\nu,{written},x\nv,2024-02-20 10:00 UTC,x\n")
    table(here, time_format=form)
    found = prepared(here)
    assert (
        [f"{event['time']:%Y-%m-%d %H:%M}" for event in found["u"]["view"]] == [expected]
        if expected
        else ("u" not in found)
    )
    assert dead_letters() == ([] if expected else [("clicks.csv:2", "bad_time")])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("bigint", ["7", "007", "-7", "7.0", "1e3", "9007199254740993"], ["0.15", "0x10", "1_000", "7e-1"]),
        ("bigint", ["7"], ["9007199254740992.7"]),
        ("decimal(38,2)", ["7", "7.10", "7.100", "123456789012345678.12"], ["7.123", "123456789012345678.123"]),
        ("date", ["2024-02-20", "2024-2-3"], ["2024-02-20 10:00", "2024-02-30"]),
        ("timestamp", ["2024-02-20 22:00", "2024-02-20"], ["2024-02-20T22:00:00+05:00", "2024-02-20 22:00 EST"]),
    ],
)
def test_a_declared_type_changes_no_value(here: Config, kind: str, good: list[str], bad: list[str]) -> None:
    values = [*good, *bad]
    Path("clicks.csv").write_text("uid,ts,item,v\n" + "".join(f"u,2024-02-20,x{i},{v}\n" for i, v in enumerate(values)))
    table(here, types={"v": kind})
    here["max_bad_share"] = 1.0
    here["modalities"]["view"]["keep"] = 99
    assert {event["text"] for event in prepared(here)["u"]["view"]} == {f"x{i}" for i in range(len(good))}
    assert dead_letters() == sorted((f"clicks.csv:{2 + i}", "bad_value") for i in range(len(good), len(values)))


def test_whole_numbers_of_several_kinds_do_not_merge(here: Config) -> None:
    big = 2**53
    rows = {"uid": ["u", "u"], "ts": ["2024-02-20", "2024-02-21"], "item": ["x", "y"]}
    pq.write_table(
        pa.table(rows | {"id": pa.array([Decimal(big), Decimal(big + 1)], pa.decimal128(20, 0))}), "1.parquet"
    )
    pq.write_table(pa.table(rows | {"id": pa.array([1, 2], pa.int64())}), "2.parquet")
    table(here, files="*.parquet")
    here["features"] = [{"name": "n", "table": "clicks", "sql": "count(distinct id)"}]
    assert prepared(here)["u"]["tabular"] == [4]


def test_a_column_used_as_a_number_stays_what_it_is(here: Config) -> None:
    big = 2**53
    Path("clicks.csv").write_text(f"uid,ts,item,id\nu,2024-02-20,x,{big}\nu,2024-02-21,y,{big + 1}\n")
    here["modalities"]["view"] |= {"amount": "id", "fields": {"id": {"number": "id"}}}
    here["features"] = [
        {"name": "n", "table": "clicks", "sql": "count(distinct id)"},
        {"name": "id", "table": "clicks", "sql": "count(*)", "per": "id", "top": 2},
    ]
    assert prepared(here)["u"]["tabular"] == [2, 1, 1]
    assert json.loads(Path("out/data.json").read_text())["features"] == ["n", f"id:{big}", f"id:{big + 1}"]


def test_equal_data_of_narrow_types_have_one_definition(here: Config) -> None:
    here["features"] = [{"name": "n", "table": "clicks", "sql": "sum(n)"}]
    rows = {"uid": ["u"], "ts": ["2024-02-20"], "item": ["x"]}
    digests = set()
    for kind in (pa.int8(), pa.uint16(), pa.int64()):
        pq.write_table(pa.table(rows | {"n": pa.array([7], kind)}), "clicks")
        table(here, files="clicks")
        assert prepared(here)["u"]["tabular"] == [7]
        digests.add(read_file("out/rows.json").digest)
    Path("clicks").write_text("uid,ts,item,n\nu,2024-02-20,x,7\n")
    prepared(here)
    assert digests == {read_file("out/rows.json").digest}


def test_a_definition_binds_the_columns_of_user_and_time(here: Config) -> None:
    Path("clicks.csv").write_text("uid,other,ts,booked,item\nu,h,2024-02-20,2024-02-25,x\n")
    prepared(here)
    for key, column in (("time", "booked"), ("user", "other")):
        changed = json.loads(json.dumps(here))
        table(changed, **{key: column})
        with pytest.raises(InputError, match=rf"data\.source\.tables\.clicks\.{key}: the rows of out/rows\.json were"):
            prepared(changed | {"definition": "out/rows.json"}, "other")


def test_an_instant_does_not_stand_for_a_local_time(here: Config) -> None:
    here["features"] = [{"name": "hour", "table": "clicks", "sql": "max(hour(opened))"}]
    rows = {"uid": ["u"], "ts": ["2024-02-20"], "item": ["x"]}
    opened = [dt.datetime(2024, 2, 20, 22)]
    table(here, files="clicks")
    pq.write_table(pa.table(rows | {"opened": pa.array(opened, pa.timestamp("us", "UTC"))}), "clicks")
    assert prepared(here)["u"]["tabular"] == [22]
    pq.write_table(pa.table(rows | {"opened": pa.array(opened, pa.timestamp("us"))}), "clicks")
    with pytest.raises(InputError, match=r"column 'opened' was TIMESTAMP WITH TIME ZONE .* is TIMESTAMP in clicks"):
        prepared(here | {"definition": "out/rows.json"})


def test_other_columns_of_times_are_read_as_the_time_column(here: Config) -> None:
    table(here, types={"opened": "timestamptz"}, timezone="Asia/Tokyo")
    here["features"] = [{"name": "later", "table": "clicks", "sql": "max(epoch(opened) - epoch(ts))", "empty": -1}]
    here["max_bad_share"] = 1.0
    written = ["2024-02-20 22:00", "2024-02-20T22:00+09:00", "2024-02-20 10 pm BST", "2024-02-20 10:00 PM Asia/Tokyo"]
    lines = "".join(f"u{i},2024-02-20 22:00,x,{time}\n" for i, time in enumerate(written))
    Path("clicks.csv").write_text(f"uid,ts,item,opened\n{lines}")
    assert {user: row["tabular"] for user, row in prepared(here).items()} == {"u0": [0], "u1": [0], "u3": [0]}
    assert dead_letters() == [("clicks.csv:4", "bad_value")]
    opened = pa.array([dt.datetime(2024, 2, 20, 22)], pa.timestamp("us"))
    table(here, files="clicks")
    pq.write_table(pa.table({"uid": ["u"], "ts": opened, "item": ["x"], "opened": opened}), "clicks")
    assert prepared(here)["u"]["tabular"] == [0]


def test_missing_numbers_under_a_definition_are_no_values(here: Config) -> None:
    here["features"] = [{"name": "n", "table": "clicks", "sql": "sum(n)", "empty": -1}]
    rows = {"uid": ["u", "v"], "ts": ["2024-02-20"] * 2, "item": ["x", "y"]}
    table(here, files="clicks")
    pq.write_table(pa.table(rows | {"n": [1, 2]}), "clicks")
    prepared(here)
    pq.write_table(pa.table(rows | {"n": [float("nan"), 3.0]}), "clicks")
    found = prepared(here | {"definition": "out/rows.json"}, "later")
    assert [found[user]["tabular"] for user in "uv"] == [[-1], [3]]
    assert dead_letters("later") == []


def test_the_order_of_rows_tells_nothing_of_pseudonyms(here: Config) -> None:
    Path("key").write_bytes(b"k" * 32)
    Path("clicks.csv").write_text("uid,ts,item\n" + "".join(f"u{i},2024-02-20,x\n,2024-02-20,x\n" for i in range(50)))
    here["users"] = {"key_file": "key"}
    here["labels"] = {"one": {"group": "g", "table": "clicks", "sql": "count(*) > 0"}}
    names = list(prepared(here))
    assert names == sorted(names)
    assert pq.read_table("out/labels/pretrain")["user_id"].to_pylist() == names


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cutoffs": ["2024-03-01", "2024-03-01"]}, r"snapshots: cutoffs: 2024-03-01 is given twice"),
        ({"cutoffs": ["0001-01-01"]}, r"cutoffs: 0001-01-01 is before 1900"),
        ({"timezone": "localtime"}, r"snapshots\.timezone: expected an IANA time zone"),
        ({"timezone": "right/UTC"}, r"snapshots\.timezone: expected an IANA time zone"),
    ],
)
def test_snapshots_that_are_refused(here: Config, changes: Config, sentence: str) -> None:
    here["snapshots"] |= changes
    with pytest.raises(InputError, match=sentence):
        data_config(here)


def test_libraries_that_know_a_zone_differently_are_told(here: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("clicks.csv").write_text("uid,ts,item\nu,2024-02-20,x\n")
    here["snapshots"]["timezone"] = "Europe/Berlin"
    prepare.check(data_config(here))
    monkeypatch.setattr(zones, "wall_clock", lambda times: np.zeros(len(times), np.int64))
    with pytest.raises(InputError, match=r"data of Arrow and of this machine's Python differ for Europe/Berlin on"):
        prepare.check(data_config(here))


def test_lists_of_json_under_a_definition_of_parquet(here: Config) -> None:
    here["modalities"]["view"]["parts"] = {"texts": "tags"}
    rows = [{"uid": "u", "ts": "2024-02-20", "item": "x", "tags": ["line\nbreak", 'a "b", [c]', "é"]}]
    table(here, files="clicks")
    pq.write_table(pa.Table.from_pylist(rows), "clicks")
    first = prepared(here)["u"]["view"][0]["parts"]
    assert [part["text"] for part in first] == ["line break", 'a "b", [c]', "é"]
    Path("clicks").write_text(json.dumps(rows[0]) + "\n")
    assert prepared(here | {"definition": "out/rows.json"}, "later")["u"]["view"][0]["parts"] == first


def test_a_part_of_white_space_costs_its_event_only(here: Config) -> None:
    here["modalities"]["view"]["parts"] = {"texts": "string_split(tags, '|')"}
    Path("clicks.csv").write_text("uid,ts,item,tags\nu,2024-02-20,x,milk\nu,2024-02-21,y,milk|\t\nu,2024-03-02,z,\t\n")
    assert [event["text"] for event in prepared(here)["u"]["view"]] == ["x"]
    assert dead_letters() == [("clicks.csv:3", "null_part"), ("clicks.csv:4", "null_part")]


@pytest.mark.parametrize("names", [("p", "t"), ("parts", "time"), ("x", "local")])
def test_columns_called_as_names_in_our_own_sql(here: Config, names: tuple[str, str]) -> None:
    one, two = names
    table(here, time=two)
    here["modalities"]["view"] |= {"text": f"{{{one}}}", "amount": one}
    Path("clicks.csv").write_text(f"uid,{two},{one}\nu,2024-02-20 10:00 PM,7\n")
    [event] = prepared(here)["u"]["view"]
    assert (f"{event['time']:%m-%d %H}", event["text"], event["amount"]) == ("02-20 22", "7", 7)


@pytest.mark.parametrize("name", ["__f0", "reject_errors"])
def test_tables_that_prepare_needs_itself(here: Config, name: str) -> None:
    here["source"]["tables"][name] = here["source"]["tables"]["clicks"]
    with pytest.raises(InputError, match=f"'{name}' is a table of prepare itself"):
        data_config(here)


def test_two_numbers_of_one_name(here: Config) -> None:
    feature = {"name": "n", "table": "clicks", "sql": "count(*)"}
    for features in ([feature | {"windows": [7, 7]}], [feature | {"windows": [7]}, feature | {"name": "n_7d"}]):
        with pytest.raises(InputError, match="the name 'n_7d' is given twice"):
            data_config(here | {"features": features})


def test_numbers_that_files_hold_as_whole_and_as_floating_in_a_text(here: Config) -> None:
    rows = {"uid": ["u"], "ts": ["2024-02-20"]}
    pq.write_table(pa.table(rows | {"item": [7]}), "1.parquet")
    pq.write_table(pa.table(rows | {"item": [8.0]}), "2.parquet")
    table(here, files="*.parquet")
    with pytest.raises(InputError, match=r"column 'item' holds whole numbers in 1\.parquet and floating ones in 2"):
        prepared(here)
    table(here, types={"item": "bigint"})
    assert [event["text"] for event in prepared(here)["u"]["view"]] == ["7", "8"]


def test_folders_that_name_users_give_no_pseudonyms(here: Config) -> None:
    table(here, files="uid=*/clicks.csv", partitions=["uid"])
    with pytest.raises(InputError, match=r"users\.key_file: folders of source\.tables\.clicks name users"):
        data_config(here | {"users": {"key_file": "key"}})


@pytest.mark.parametrize("changes", [{"per": "split", "top": 1}, {"sql": "max(row)"}, {"sql": "count(user_id)"}])
def test_columns_of_our_own_tables_cannot_be_meant(here: Config, changes: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item\nu,2024-02-20,x\n")
    here["features"] = [{"name": "n", "table": "clicks", "sql": "count(*)"} | changes]
    with pytest.raises(InputError, match=r"table 'clicks' has no column '(split|row|user_id)'; its columns are: uid"):
        prepared(here)
    Path("clicks.csv").write_text("uid,ts,item,split,row,user_id\nu,2024-02-20,x,9,9,9\n")
    prepared(here)


def test_an_amount_that_is_an_interval(here: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item\nu,2024-02-20,x\n")
    here["modalities"]["view"]["amount"] = "ts - ts"
    with pytest.raises(InputError, match=r"modalities\.view\.amount: `ts - ts` must give a number, but gives INT"):
        prepared(here)


def test_a_json_line_that_is_nested_too_deeply(here: Config) -> None:
    table(here, files="clicks")
    deep = "[" * 100_000
    Path("clicks").write_text('{"uid": "u", "ts": "2024-02-20", "item": "x"}\n{"item": ' + deep + "\n")
    assert list(prepared(here)) == ["u"]
    assert dead_letters() == [("clicks:2", "bad_line")]


@pytest.mark.parametrize("content", [b"\xff\xfe{\x00", b"[" * 100_000, b'{"format": 1}', b"7"])
def test_files_that_are_no_definition(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(InputError, match="this is no row definition"):
        read_file(str(tmp_path / "rows.json"))
    with pytest.raises(InputError, match="this is no row definition"):
        read_file(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"), [("age_timezone", "Mars/X"), ("values", None), ("values", ["x", "x"]), ("timezone", "nowhere")]
)
def test_a_definition_that_somebody_has_edited(here: Config, key: str, value: Any) -> None:
    Path("clicks.csv").write_text("uid,ts,item\nu,2024-02-20,x\n")
    here["features"] = [{"name": "n", "table": "clicks", "sql": "count(*)", "per": "item", "top": 2}]
    prepared(here)
    content = json.loads(Path("out/rows.json").read_text())
    (content["features"][0] if key == "values" else content)[key] = value
    Path("out/rows.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="this is no row definition"):
        read_file("out/rows.json")


def test_user_rows_of_other_shapes() -> None:
    event = {"time": dt.datetime(2024, 2, 1, tzinfo=dt.UTC), "text": "x", "amount": None}
    kind = pa.struct([("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())])
    as_of = pa.array([dt.datetime(2024, 3, 1, tzinfo=dt.UTC)] * 2, pa.timestamp("us", "UTC"))
    rows = pa.table({"user_id": ["u", "v"], "as_of": as_of, "a": pa.array([[event] * 2, None], pa.list_(kind, 2))})
    good, bad = validate(rows, ["a"], 0)
    assert (good["user_id"].to_pylist(), bad["reason"].to_pylist()) == (["u"], ["empty_history"])
    with pytest.raises(InputError, match="column 'a' is there twice"):
        validate(rows.append_column("a", rows["a"]), ["a"], 0)

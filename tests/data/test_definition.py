"""The row definition: rows made by it are the same whatever today's data look like; fields and parts of events."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.data import prepare
from ray_ggsm.data.chunks import plan_chunks
from ray_ggsm.data.definition import RowDefinition, read, read_file
from ray_ggsm.data.schema import definition_digest
from tests.helpers.data import data_config

Config = dict[str, Any]


def prepared(config: Config, place: str = "out") -> list[dict[str, Any]]:
    """The rows of the train split, by user."""
    checked = data_config(config)
    prepare.check(checked)
    fitted = prepare.fit(checked)
    counts = [prepare.write_shard(checked, fitted, 0, 1, place)]
    prepare.write_summary(checked, fitted, counts, place)
    rows: list[dict[str, Any]] = pq.read_table(f"{place}/rows/pretrain").to_pylist()
    return sorted(rows, key=lambda row: row["user_id"])


def definition(place: str = "out") -> RowDefinition:
    found = read(place)
    assert found is not None
    return found


def letters(place: str = "out") -> list[tuple[str, str, str]]:
    found = pq.read_table(f"{place}/dead_letters").to_pylist()
    return sorted((row["user_id"], row["source"], row["reason"]) for row in found)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clicks: Config) -> Config:
    """One table, a feature with a vocabulary and one over numbers."""
    monkeypatch.chdir(tmp_path)
    clicks["modalities"]["view"].pop("amount")
    clicks["splits"] = {"pretrain": {"role": "train", "users": "all", "cutoffs": [0]}}
    clicks["labels"] = {"rich": {"group": "g", "table": "clicks", "sql": "sum(bonus)", "at_least_quantile": 0.5}}
    clicks["features"] = [
        {"name": "spend", "table": "clicks", "sql": "sum(price)", "windows": [7, 14]},
        {"name": "n", "table": "clicks", "sql": "count(*)", "per": "item", "top": 2},
    ]
    Path("clicks.csv").write_text(
        "uid,ts,item,price,bonus\na,2024-02-20,x,1,1\na,2024-02-25,y,2,1\nb,2024-02-21,x,4,2\nb,2024-03-02,z,8,3\n"
    )
    return clicks


def later(config: Config, rows: str, **changes: Any) -> Config:
    """The config for other files, with the definition of `out`."""
    Path("later.csv").write_text(rows)
    config["source"]["tables"]["clicks"]["files"] = "later.csv"
    return config | {"definition": "out/rows.json"} | changes


def test_rows_say_by_which_definition_they_were_made(here: Config) -> None:
    prepared(here)
    found = definition()
    assert definition_digest(pq.read_schema(next(Path("out/rows/pretrain").iterdir()))) == found.digest
    assert found.feature_names == ("spend_7d", "spend_14d", "n:x", "n:y")
    assert found.tables["clicks"].columns == {"item": "VARCHAR", "price": "BIGINT"}
    assert (found.timezone, found.age_timezone, found.history_days) == ("UTC", "UTC", 20)


def test_only_what_changes_rows_changes_the_digest(here: Config) -> None:
    prepared(here)
    first = definition().digest
    other = dict(here, labels={}, max_bad_share=0.1, users={"salt": "s", "test_percent": 0})
    other["snapshots"] = here["snapshots"] | {"future_days": 5}
    rows = pa.table(
        {
            "uid": ["a", "b"],
            "ts": ["2024-02-20", "2024-02-21"],
            "item": ["x", "y"],
            "price": pa.array([1, 2], pa.int64()),
            "more": [0, 0],
        }
    )
    pq.write_table(rows, "clicks.parquet")
    other["source"] = {
        "kind": "files",
        "tables": {"clicks": here["source"]["tables"]["clicks"] | {"files": "*.parquet"}},
    }
    prepared(other, "other")
    assert definition("other").digest == first
    here["snapshots"]["history_days"] = 19
    prepared(here, "shorter")
    assert definition("shorter").digest != first


def test_later_rows_are_those_of_the_definition(here: Config) -> None:
    """Other frequent values, fractions in a column of whole numbers, and a column more, in the later files."""
    prepared(here)
    config = later(
        here,
        "more,uid,ts,item,price,bonus\n"
        "-,a,2024-02-20,z,1,1\n-,a,2024-02-21,z,1.5,1\n-,a,2024-02-22,x,2,1\n-,b,2024-02-23,z,3,0\n",
        labels={},
    )
    a, b = prepared(config, "later")
    assert [event["text"] for event in a["view"]] == ["z", "x"]
    assert a["tabular"] == [0, 3, 1, 0]
    assert b["tabular"] == [3, 3, 0, 0]
    assert letters("later") == [("a", "later.csv:3", "bad_value")]
    assert definition("later") == definition()
    [schema] = [pq.read_schema(file) for file in Path("later/rows/pretrain").iterdir()]
    assert definition_digest(schema) == definition().digest


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "uid,ts,item,cost\na,2024-02-20,x,1\n",
            "data.source.tables.clicks: the rows of out/rows.json need column 'price'",
        ),
        ("uid,ts,price\na,2024-02-20,1\n", "need column 'item' (VARCHAR), but later.csv has no column 'item'"),
        ("uid,when,item,price\na,2024-02-20,x,1\n", "data.source.tables.clicks.time: later.csv has no column 'ts'"),
    ],
)
def test_a_lost_column_is_refused(here: Config, rows: str, sentence: str) -> None:
    prepared(here)
    with pytest.raises(InputError) as error:
        prepared(later(here, rows, labels={}), "later")
    assert sentence in str(error.value)


def test_a_retyped_column_is_refused_and_a_wider_number_is_not(here: Config) -> None:
    prepared(here)
    rows = {"uid": ["a", "b"], "ts": ["2024-02-20", "2024-02-21"], "item": ["x", "y"]}
    config = later(here, "", labels={})
    config["source"]["tables"]["clicks"]["files"] = "later.parquet"
    pq.write_table(pa.table(rows | {"price": ["1", "2"]}), "later.parquet")
    with pytest.raises(
        InputError, match=r"column 'price' was BIGINT when out/rows\.json was made, and is VARCHAR in later"
    ):
        prepared(config, "later")
    pq.write_table(pa.table(rows | {"price": [1.0, 2.5]}), "later.parquet")
    assert [row["user_id"] for row in prepared(config, "later")] == ["a"]
    assert letters("later") == [("b", "later.parquet, row 2", "bad_value")]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"snapshots.history_days": 21},
            "data.snapshots.history_days: the rows of out/rows.json were made with 20, but",
        ),
        (
            {"snapshots.timezone": "Europe/Berlin"},
            'data.snapshots.timezone: the rows of out/rows.json were made with "UTC"',
        ),
        (
            {"modalities.view.amount": "price * 2"},
            "data.modalities.view.amount: the rows of out/rows.json were made with",
        ),
        (
            {"modalities.view.keep": 4},
            "data.modalities.view.keep: the rows of out/rows.json were made with 3, but here",
        ),
        ({"features": []}, 'data.features: the rows of out/rows.json were made with ["spend", "n"], but here it is []'),
    ],
)
def test_a_config_that_would_give_other_rows_is_refused(here: Config, changes: Config, sentence: str) -> None:
    prepared(here)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = here
        for part in path:
            place = place[part]
        place[last] = value
    with pytest.raises(InputError) as error:
        prepared(here | {"definition": "out/rows.json"}, "later")
    assert sentence in str(error.value)


def test_files_that_are_no_definition(here: Config) -> None:
    prepared(here)
    for content, sentence in (("{}", "this is no row definition"), ('{"format": 9}', "format 1, found 9")):
        Path("wrong.json").write_text(content)
        with pytest.raises(InputError, match=sentence):
            read_file("wrong.json")
    with pytest.raises(InputError, match=r"no\.json: no row definition here"):
        prepared(here | {"definition": "no.json"})


def test_rows_of_another_definition_are_refused_by_digest(here: Config) -> None:
    prepared(here)
    files = [str(file) for file in Path("out/rows/pretrain").iterdir()]
    digest = definition().digest
    assert sum(chunk.rows for chunk in plan_chunks(files, 10, ["view"], 4, digest)) == 2
    with pytest.raises(InputError, match=f"made by definition {digest}, but the encoder was trained on rows of 0123"):
        plan_chunks(files, 10, ["view"], 4, "0123")
    own = pq.read_table(files[0]).replace_schema_metadata(None)
    pq.write_table(own, "own.parquet")  # of a team that makes its rows itself: they say nothing
    assert sum(chunk.rows for chunk in plan_chunks(["own.parquet"], 10, ["view"], 4, "0123")) == 2


def test_pseudonyms(here: Config) -> None:
    """Values by Python's BLAKE2b; the split and the sequence of rows do not depend on the key."""
    key = b"0123456789abcdef"
    Path("key").write_bytes(key + b"\n")
    Path("clicks.csv").write_text(
        "uid,ts,item,price,bonus\na,2024-02-20,x,1,1\nb,2024-03-02,z,no,3\na,2024-03-02,z,1,3\n"
    )
    here["source"]["tables"]["clicks"]["types"] = {"price": "bigint"}
    here["users"] = {"test_percent": 0, "key_file": "key"}
    names = {user: hashlib.blake2b(user.encode(), key=key, digest_size=16).hexdigest() for user in "ab"}
    [row] = prepared(here)
    assert row["user_id"] == names["a"]
    assert pq.read_table("out/labels/pretrain")["user_id"].to_pylist() == [names["a"]]
    assert letters() == [(names["b"], "clicks.csv:3", "bad_value")]
    found = definition()
    assert found.user_ids == "keyed_hash"
    plain = here | {"users": {"test_percent": 0}}
    assert (found.key_id is None, prepared(plain, "plain")[0]["user_id"]) == (False, "a")
    assert definition("plain").digest != found.digest


def test_another_key_of_pseudonyms_is_refused(here: Config) -> None:
    for name in ("key", "other"):
        Path(name).write_text(name * 8)
    here["users"] = {"test_percent": 0, "key_file": "key"}
    prepared(here)
    with pytest.raises(InputError, match=r"data\.users\.key_file: the rows of out/rows\.json were made with"):
        prepared(here | {"users": {"key_file": "other"}, "definition": "out/rows.json"})
    states = [prepare.input_state(data_config(here | {"users": {"key_file": file}})) for file in ("key", "other")]
    assert states[0]["users"] != states[1]["users"]
    checked = data_config(here)
    fitted = prepare.fit(checked)
    Path("key").write_bytes(b"y" * 16)
    with pytest.raises(InputError, match="key holds another key on this node"):
        prepare.write_shard(checked, fitted, 0, 1, "out")
    Path("key").write_bytes(b"short")
    with pytest.raises(InputError, match="a key of 16 to 64 bytes, found 5"):
        prepared(here)
    Path("key").unlink()
    with pytest.raises(InputError, match="key: expected a file with a secret key"):
        prepared(here)


FIELDS = {
    "shop": {"text": "{shop}"},
    "net": {"number": "price / 1.19"},
    "both": {"text": " {shop}  {item} "},
}


def test_fields_and_parts_of_events(here: Config) -> None:
    here["features"], here["labels"] = [], {}
    here["modalities"]["view"] |= {
        "fields": FIELDS,
        "parts": {"texts": "string_split(parts, '|')", "weights": "string_split(weights, '|')::double[]"},
    }
    Path("clicks.csv").write_text(
        "uid,ts,item,price,shop,parts,weights\n"
        "a,2024-02-20,x,1.19,007,milk| rye  bread ,0.25|2\n"
        "a,2024-02-21,y,,,,\n"
        "a,2024-02-22,bad1,1,007,milk|bread,1\n"
        "a,2024-02-23,bad2,1,007,milk||bread,1|1|1\n"
        "a,2024-02-24,bad3,1,007,milk,1e39\n"
        "a,2024-03-01,z,2.38,1.10,tea,-1\n"
    )
    [row] = prepared(here)
    first, second = row["view"]
    assert first["fields"] == {"shop": "007", "net": pytest.approx(1), "both": "007 x"}
    assert first["parts"] == [{"text": "milk", "weight": 0.25}, {"text": "rye bread", "weight": 2}]
    assert (second["fields"], second["parts"]) == ({"shop": None, "net": None, "both": "y"}, [])
    [future] = row["future"]
    assert future["fields"] == {"shop": "1.10", "net": pytest.approx(2), "both": "1.10 z"}
    assert future["parts"] == [{"text": "tea", "weight": -1}]
    assert letters() == [
        ("a", "clicks.csv:4", "parts_and_weights_differ"),
        ("a", "clicks.csv:5", "null_part"),
        ("a", "clicks.csv:6", "non_finite_number"),
    ]


def test_events_without_a_text(here: Config) -> None:
    here["features"], here["labels"] = [], {}
    here["modalities"]["view"] = {
        "table": "clicks",
        "keep": 5,
        "fields": {"shop": {"text": "{shop}"}, "price": {"number": "price"}},
        "parts": {"texts": "string_split(parts, '|')"},
    }
    Path("clicks.csv").write_text(
        "uid,ts,price,shop,parts\n"
        "a,2024-02-20,,north,\n"
        "a,2024-02-21,,,milk\n"
        "a,2024-02-22,2,,\n"
        "a,2024-02-23,,,\n"
        "a,2024-03-01,,south,\n"
    )
    [row] = prepared(here)
    assert [(e["text"], e["fields"], [p["text"] for p in e["parts"]]) for e in row["view"]] == [
        (None, {"shop": "north", "price": None}, []),
        (None, {"shop": None, "price": None}, ["milk"]),
        (None, {"shop": None, "price": 2.0}, []),
    ]
    assert [(e["text"], e["fields"]["shop"]) for e in row["future"]] == [(None, "south")]
    assert letters() == [("a", "clicks.csv:5", "empty_event")]
    here["modalities"]["view"] = {"table": "clicks", "keep": 5}
    with pytest.raises(ValueError, match="give `text`, `fields` or `parts`, or an event says nothing"):
        prepared(here)


def test_lists_of_json_and_parquet_are_parts_of_weight_one(here: Config) -> None:
    here["features"], here["labels"] = [], {}
    here["source"]["tables"]["clicks"]["files"] = "clicks"
    here["modalities"]["view"] = {"table": "clicks", "text": "{item}", "keep": 3, "parts": {"texts": "tags::varchar[]"}}
    rows = [
        {"uid": "a", "ts": "2024-02-20", "item": "x", "tags": ["p", "q"]},
        {"uid": "a", "ts": "2024-02-21", "item": "y", "tags": []},
        {"uid": "a", "ts": "2024-02-22", "item": "z", "tags": None},
    ]
    Path("clicks").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [[("p", 1), ("q", 1)], [], []]
    for place in ("json", "parquet"):
        [row] = prepared(here, place)
        assert [[(part["text"], part["weight"]) for part in event["parts"]] for event in row["view"]] == expected
        pq.write_table(pa.Table.from_pylist(rows), "clicks")


def test_the_future_has_the_fields_and_parts_of_all_modalities(here: Config) -> None:
    here["features"], here["labels"] = [], {}
    view = here["modalities"]["view"]
    here["modalities"] = {
        "plain": {"table": "clicks", "text": "{item}", "keep": 3, "where": "price = 1"},
        "view": view | {"where": "price = 2", "fields": {"shop": {"text": "{item}!"}}},
        "cart": view | {"where": "price = 3", "fields": {"n": {"number": "price"}}, "parts": {"texts": "[item]"}},
    }
    days = "".join(f"a,2024-03-0{i},x{i},{i}\n" for i in (1, 2, 3))
    Path("clicks.csv").write_text(f"uid,ts,item,price\na,2024-02-20,x,2\n{days}")
    [row] = prepared(here)
    assert [(e["modality"], e["text"], e["fields"], e["parts"]) for e in row["future"]] == [
        ("plain", "x1", {"shop": None, "n": None}, None),
        ("view", "x2", {"shop": "x2!", "n": None}, None),
        ("cart", "x3", {"shop": None, "n": 3.0}, [{"text": "x3", "weight": 1.0}]),
    ]
    assert row["view"] == [{**row["view"][0], "text": "x", "fields": {"shop": "x!"}}]


@pytest.mark.parametrize(
    ("modality", "sentence"),
    [
        (
            {"fields": {"shop": {"text": "{shp}"}}},
            "data.modalities.view.fields.shop.text: table 'clicks' has no column 'shp'",
        ),
        (
            {"fields": {"net": {"number": "item || '1'"}}},
            "data.modalities.view.fields.net.number: `item || '1'` must give a number",
        ),
        (
            {"parts": {"texts": "item"}},
            "data.modalities.view.parts.texts: `item` must give a list of texts, but gives VAR",
        ),
        ({"parts": {"texts": "[item]", "weights": "price"}}, "parts.weights: `price` must give a list of numbers"),
        ({"fields": {"net": {}}}, "give 'text' or 'number', and one of them only"),
    ],
)
def test_mistakes_in_fields_and_parts(here: Config, modality: Config, sentence: str) -> None:
    here["modalities"]["view"] |= modality
    with pytest.raises(InputError) as error:
        prepared(here)
    assert sentence in str(error.value)


def test_fields_of_one_name_are_of_one_kind(here: Config) -> None:
    view = here["modalities"]["view"]
    here["modalities"] = {
        "view": view | {"fields": {"shop": {"text": "{item}"}}},
        "cart": view | {"fields": {"shop": {"number": "price"}}},
    }
    with pytest.raises(InputError, match=r"modalities\.cart\.fields\.shop: it is a text in 'view'; fields of one name"):
        prepared(here)

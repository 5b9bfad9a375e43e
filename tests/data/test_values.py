"""Every value as it stands in the file: inputs as people have them, with right values worked out by hand."""

import gzip
import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_ggsm.config import InputError
from ray_ggsm.data import prepare
from ray_ggsm.data.database import opened
from ray_ggsm.data.events import create_events
from ray_ggsm.data.summary import DataSummary
from tests.helpers.data import data_config, dead_letters

Config = dict[str, Any]


def history(config: Config, place: str = "out") -> dict[str, list[tuple[str, str, float | None]]]:
    """User -> time, text and amount of each event before the first cutoff (2024-03-01)."""
    prepared(config, place)
    rows = pq.read_table(f"{place}/rows/pretrain").to_pylist()
    return {
        row["user_id"]: [(f"{e['time']:%m-%d %H:%M:%S}", e["text"], e["amount"]) for e in row["view"]] for row in rows
    }


def prepared(config: Config, place: str = "out") -> DataSummary:
    checked = data_config(config)
    prepare.check(checked)
    fitted = prepare.fit(checked, 2)
    counts = [prepare.write_shard(checked, fitted, k, 2, place) for k in range(2)]
    return prepare.write_summary(checked, fitted, counts, place)


def features(place: str = "out") -> dict[str, list[float]]:
    return {row["user_id"]: row["tabular"] for row in pq.read_table(f"{place}/rows/pretrain").to_pylist()}


def labels(place: str = "out") -> dict[str, dict[str, bool | None]]:
    rows = pq.read_table(f"{place}/labels/pretrain").to_pylist()
    return {row["user_id"]: {k: v for k, v in row.items() if k not in ("user_id", "as_of")} for row in rows}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clicks: Config) -> Config:
    """The config of one table, in an empty working directory, with one split; the text is the item."""
    monkeypatch.chdir(tmp_path)
    clicks["modalities"]["view"].pop("amount")
    clicks["splits"] = {"pretrain": {"role": "train", "users": "all", "cutoffs": [0]}}
    clicks["labels"] = {"returns": {"group": "g", "table": "clicks", "sql": "count(*) > 0"}}
    return clicks


def table(config: Config, **changes: Any) -> None:
    config["source"]["tables"]["clicks"] |= changes


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-02-20 20:00:00 EST", "02-21 01:00:00"),
        ("2024-02-20 09:30:00 PM", "02-20 21:30:00"),
        ("2024-02-20 12:15 am", "02-20 00:15:00"),
        ("2024-02-20 12:15 PM", "02-20 12:15:00"),
        ("2024-02-20 10:00:00 UTC", "02-20 10:00:00"),
        ("2024-02-20T10:00:00z", "02-20 10:00:00"),
        ("2024-02-20 20:00:00 America/New_York", "02-21 01:00:00"),
        ("2024-02-20 20:00:00 europe/berlin", "02-20 19:00:00"),
        ("2024-02-20T20:00+0530", "02-20 14:30:00"),
        ("2024-02-20T20:00:00.5-08", "02-21 04:00:00"),
        ("2024-02-20 23:59:59.9999999", "02-20 23:59:59"),
        ("2024-2-20", "02-20 00:00:00"),
        ("2024-02-20 20:00:00 CST", None),  # Chicago, Shanghai or Havana
        ("2024-02-20 20:00:00 GMT+2 summer", None),
        ("2024-02-20 13:30 PM", None),
        ("2024-02-20 10:00 yesterday", None),
        ("2024-02-30", None),
        ("20/02/2024", None),
    ],
)
def test_a_time_is_understood_as_a_whole_or_not_at_all(here: Config, written: str, expected: str | None) -> None:
    Path("clicks.csv").write_text(f"uid,ts,item\na,{written},x\nb,2024-02-20,x\n")
    assert [event[0] for event in history(here).get("a", [])] == ([] if expected is None else [expected])
    assert dead_letters() == ([] if expected else [("clicks.csv:2", "bad_time")])


def test_names_of_time_zones_in_a_format(here: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item\na,20.02.2024 20:00 America/New_York,x\n")
    table(here, time_format="%d.%m.%Y %H:%M %Z")
    assert history(here) == {"a": [("02-21 01:00:00", "x", None)]}


def test_few_fractions_among_whole_numbers(here: Config) -> None:
    rows = [f"u{i},2024-02-20,x,0" for i in range(97)] + ["d,2024-02-20,x,0.15", "d,2024-03-04,x,0.15"]
    Path("clicks.csv").write_text("\n".join(["uid,ts,item,discount", *rows]))
    here["features"] = [{"name": "most", "table": "clicks", "sql": "max(discount)"}]
    here["labels"] = {"cheap": {"group": "g", "table": "clicks", "sql": "max(discount) > 0"}}
    prepared(here)
    assert features()["d"] == [pytest.approx(0.15)]
    assert labels()["d"] == {"cheap": True}
    assert dead_letters() == []


def test_texts_of_numbers_stay_as_they_are(here: Config) -> None:
    ids = ["9007199254740993001", "9007199254740993002"]
    Path("clicks.csv").write_text(
        f"uid,ts,item,id\na,2024-02-18,1.1,{ids[0]}\na,2024-02-19,1.10,{ids[1]}\na,2024-02-20,007,{ids[1]}\n"
    )
    here["features"] = [
        {"name": "ids", "table": "clicks", "sql": "count(distinct id)"},
        {"name": "items", "table": "clicks", "sql": "sum(item::double)"},
    ]
    assert [event[1] for event in history(here)["a"]] == ["1.1", "1.10", "007"]
    assert features() == {"a": [2, pytest.approx(9.2)]}


def test_a_column_that_nothing_uses_costs_no_row(here: Config) -> None:
    rows = [f"u{i},2024-02-20,x,{10000 + i}" for i in range(1000)] + [f"c{i},2024-02-20,x,V6B{i}" for i in range(8)]
    Path("clicks.csv").write_text("\n".join(["uid,ts,item,zip", *rows]))
    assert len(history(here)) == 1008


def test_a_value_deep_in_the_file_changes_the_type_and_says_so(here: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item,price\n" + "a,2024-02-20,x,1\n" * 12_000 + "a,2024-02-20,x,free\n")
    here["features"] = [{"name": "spend", "table": "clicks", "sql": "sum(price)"}]
    with pytest.raises(InputError, match=r"features\.0.*sum\(price\).*price.*'free'.*types: \{price: double\}"):
        prepared(here)
    table(here, types={"price": "double"})
    prepared(here)
    assert dead_letters() == [("clicks.csv:12002", "bad_value")]
    assert features() == {"a": [12_000]}


def test_times_with_and_without_a_zone(here: Config) -> None:
    naive, aware = datetime(2024, 2, 20, 22), datetime(2024, 2, 20, 22, tzinfo=UTC)
    pq.write_table(pa.table({"uid": ["a"], "ts": [naive], "item": ["x"]}), "1.parquet")
    pq.write_table(
        pa.table({"uid": ["b"], "ts": pa.array([aware], pa.timestamp("ns", "UTC")), "item": ["x"]}), "2.parquet"
    )
    Path("3.csv").write_text("uid,ts,item\nc,2024-02-20 22:00,x\n")
    table(here, files="[123].*", timezone="America/New_York")
    assert history(here) == {
        "a": [("02-21 03:00:00", "x", None)],
        "b": [("02-20 22:00:00", "x", None)],
        "c": [("02-21 03:00:00", "x", None)],
    }


def test_users_as_whole_and_as_floating_numbers(here: Config) -> None:
    times = pa.array([datetime(2024, 2, 20, tzinfo=UTC)] * 4, pa.timestamp("us", "UTC"))
    users = [1, 2, 9007199254740992, 9007199254740993]
    pq.write_table(pa.table({"uid": users, "ts": times, "item": ["x"] * 4}), "clicks.parquet")
    pq.write_table(pa.table({"uid": [1.0, 2.0, float("nan")], "age": [30, 40, 50]}), "profile.parquet")
    table(here, files="clicks.parquet")
    here["source"]["tables"]["profile"] = {"files": "profile.parquet", "user": "uid"}
    here["features"] = [{"name": "age", "table": "profile", "sql": "max(age)", "empty": -1}]
    prepared(here)
    assert features() == {"1": [30], "2": [40], "9007199254740992": [-1], "9007199254740993": [-1]}
    assert dead_letters() == [("profile.parquet, row 3", "missing_user")]
    for odd in (1.5, 2.0**53, float("inf")):
        pq.write_table(pa.table({"uid": [1.0, odd], "age": [30, 40]}), "profile.parquet")
        with pytest.raises(InputError, match=r"'uid' holds users as floating numbers.*not whole or too large"):
            prepared(here)


def test_nan_is_no_value_and_infinity_costs_its_row(here: Config) -> None:
    nan, inf = float("nan"), float("inf")
    days = [datetime(2024, 3, 4, tzinfo=UTC)] * 2 + [datetime(2024, 2, 20, tzinfo=UTC)] * 4
    prices = [nan, None, 1.0, nan, 2.0, inf]
    columns = {"uid": ["a", "b", "a", "a", "b", "b"], "ts": days, "item": ["x"] * 6, "price": prices}
    pq.write_table(pa.table(columns), "clicks.parquet")
    table(here, files="clicks.parquet")
    here["features"] = [{"name": "spend", "table": "clicks", "sql": "sum(price)"}]
    here["labels"] = {
        "spends": {"group": "g", "table": "clicks", "sql": "sum(price) > 10"},
        "much": {"group": "g", "table": "clicks", "sql": "coalesce(sum(price), 3)", "above_quantile": 0.9},
    }
    prepared(here)
    assert features() == {"a": [1], "b": [2]}
    assert labels() == {"a": {"spends": False, "much": False}, "b": {"spends": False, "much": False}}
    assert dead_letters() == [("clicks.parquet, row 6", "non_finite_number")]


def test_an_amount_too_large_for_a_float_costs_its_row(here: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item,price\na,2024-02-20,x,1e39\na,2024-02-20,x,2.5\n")
    here["modalities"]["view"]["amount"] = "price * 2"
    assert history(here) == {"a": [("02-20 00:00:00", "x", 5.0)]}
    assert dead_letters() == [("clicks.csv:2", "non_finite_number")]


def test_file_names_are_no_patterns(here: Config) -> None:
    for name, user in {"events1.csv": "a", "events[1].csv": "b", "events*.csv": "c", "events?1.csv": "d"}.items():
        Path(name).write_text(f"uid,ts,item\n{user},2024-02-20,x\n")
    table(here, files="events*")
    assert history(here, "1").keys() == {"a", "b", "c", "d"}
    for name, user in {"events[1].csv": "b", "events*.csv": "c"}.items():
        table(here, files=name)
        assert history(here, f"only {user}").keys() == {user}


def test_folders_mean_nothing_unless_declared(here: Config) -> None:
    for day, user in {"2024-02-20": "a", "2024-02-21": "b"}.items():
        Path(f"date={day}").mkdir()
        row = {"uid": [user], "date": [datetime.fromisoformat(f"{day}T18:30:00")], "item": ["x"]}
        pq.write_table(pa.table(row), f"date={day}/part.parquet")
        Path(f"date={day}/part.csv").write_text(f"uid,item\n{user},x\n")
    table(here, files="date=*/*.parquet", time="date")
    assert history(here) == {"a": [("02-20 18:30:00", "x", None)], "b": [("02-21 18:30:00", "x", None)]}
    table(here, partitions=["date"])
    with pytest.raises(InputError, match=r"partitions: .*part\.parquet has a column 'date' of its own"):
        prepared(here)
    table(here, files="date=*/*.csv")
    assert history(here, "csv") == {"a": [("02-20 00:00:00", "x", None)], "b": [("02-21 00:00:00", "x", None)]}
    table(here, partitions=["region"])
    with pytest.raises(InputError, match=r"partitions: .*has no folder 'region=\.\.\.'"):
        prepared(here)


NAMES = [
    "stage",
    "split",
    "row",
    "s",
    "e",
    "x",
    "__row",
    "__value",
    "__reason",
    "user_id",
    "c0",
    "rows",
    "file",
    "select",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_column_name_can_be_used(here: Config, name: str) -> None:
    Path("clicks.csv").write_text(f"uid,ts,item,{name}\na,2024-02-20,x,3\na,2024-02-21,x,4\n")
    used = f'"{name}"'
    here["modalities"]["view"] |= {"text": f"{{{name}}}", "amount": used}
    here["features"] = [
        {"name": "all", "table": "clicks", "sql": f"sum({used})"},
        {"name": "per", "table": "clicks", "sql": "count(*)", "per": used, "top": 2},
    ]
    here["labels"] = {"more": {"group": "g", "table": "clicks", "sql": f"count({used}) > 0"}}
    assert [event[1:] for event in history(here)["a"]] == [("3", 3.0), ("4", 4.0)]
    assert features() == {"a": [7, 1, 1]}


@pytest.mark.parametrize("name", ["users", "cutoffs", "asked", "active", "wanted", "x", "e", "s"])
def test_any_table_name_can_be_used(here: Config, name: str) -> None:
    Path("clicks.csv").write_text("uid,ts,item\na,2024-02-20,x\n")
    here["source"]["tables"] = {name: here["source"]["tables"]["clicks"]}
    here["modalities"]["view"]["table"] = here["labels"]["returns"]["table"] = name
    here["snapshots"]["minimum_events"]["table"] = name
    assert history(here).keys() == {"a"}


def test_a_label_may_be_called_split(here: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item\na,2024-02-20,x\n")
    here["labels"] = {"split": here["labels"]["returns"]}
    prepared(here)
    assert labels() == {"a": {"split": False}}


ARRAYS = {
    "dictionary": lambda values: pa.array(values).dictionary_encode(),
    "view": lambda values: pa.array(values, pa.string_view()),
    "large": lambda values: pa.array(values, pa.large_string()),
    "bytes": lambda values: pa.array([value.encode() for value in values], pa.binary()),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_texts_as_writers_of_parquet_keep_them(here: Config, kind: str) -> None:
    columns = {"uid": ["a", "b"], "ts": ["2024-02-20", "2024-02-21"]}
    columns = {name: ARRAYS[kind](values) for name, values in columns.items()}
    pq.write_table(
        pa.table(columns | {"item": ["x", "y"], "tags": pa.nulls(2, pa.list_(pa.null())), "n": pa.nulls(2)}),
        "20240220_x",
    )
    here["modalities"]["view"]["text"] = "{item} {tags} {n}"
    here["features"] = [{"name": "n", "table": "clicks", "sql": "count(n)"}]
    table(here, files="2024*")
    assert history(here) == {"a": [("02-20 00:00:00", "x", None)], "b": [("02-21 00:00:00", "y", None)]}


def test_whole_decimals_are_users(here: Config) -> None:
    columns = {"uid": [Decimal("7.00")], "ts": [datetime(2024, 2, 20, tzinfo=UTC)], "item": ["x"]}
    pq.write_table(pa.table(columns), "clicks.parquet", use_deprecated_int96_timestamps=True)
    table(here, files="clicks.parquet")
    assert history(here) == {"7": [("02-20 00:00:00", "x", None)]}


@pytest.mark.parametrize("ends", [*itertools.product(["\n", "\r\n"], repeat=3)], ids=str)
def test_any_mixture_of_line_ends(here: Config, ends: tuple[str, str, str]) -> None:
    lines = ["uid,ts,item", 'a,2024-02-20,"x\ny"', "b,2024-02-20,z,extra", "c,2024-02-20,w"]
    Path("clicks.csv").write_bytes("".join(map("".join, zip(lines, [*ends, ""], strict=True))).encode())
    assert history(here) == {"a": [("02-20 00:00:00", "x y", None)], "c": [("02-20 00:00:00", "w", None)]}
    assert dead_letters() == [("clicks.csv:4", "bad_line")]


def test_empty_files(here: Config) -> None:
    Path("1.csv").write_bytes(b"")
    table(here, files="*.csv")
    with pytest.raises(InputError, match=r"all files of '\*\.csv' are empty"):
        prepared(here)
    Path("2.csv").write_text("uid,ts,item\na,2024-02-20,x\n")
    assert history(here).keys() == {"a"}


def test_a_directory_is_no_file(here: Config) -> None:
    Path("events.parquet").mkdir()
    table(here, files="events.parquet")
    with pytest.raises(InputError, match=r"events\.parquet is a directory; write events\.parquet/\*"):
        prepared(here)


def test_json_lines(here: Config) -> None:
    rows = [
        '{"uid": 7, "ts": "2024-02-20", "item": "x", "price": 1.10, "tags": ["a", 1.50]}',
        '{"uid": "7", "ts": "2024-02-21", "price": NaN}',
        "",
        '{"uid": "7", "ts": "2024-02-22", "item": "y", "price": null}',
        "[1]",
        '{"uid": ',
    ]
    Path("clicks").write_bytes(gzip.compress("\r\n".join(rows).encode()))
    table(here, files="clicks")
    here["modalities"]["view"] |= {"text": "{item} {price} {tags}", "amount": "price"}
    here["max_bad_share"] = 0.6
    assert history(here) == {
        "7": [("02-20 00:00:00", 'x 1.10 ["a",1.5]', pytest.approx(1.1)), ("02-22 00:00:00", "y", None)]
    }
    assert dead_letters() == [("clicks:2", "null_text"), ("clicks:5", "bad_line"), ("clicks:6", "bad_line")]


WRITERS: dict[str, Callable[[list[dict[str, Any]], Path], None]] = {
    "csv": lambda rows, file: file.write_text(_csv(rows)),
    "csv.gz": lambda rows, file: file.write_bytes(
        b"".join(gzip.compress(p.encode()) for p in _csv(rows).splitlines(True))
    ),
    "json": lambda rows, file: file.write_text("".join(json.dumps(row) + "\n" for row in rows)),
    "parquet": lambda rows, file: pq.write_table(pa.Table.from_pylist(rows), file),
    "view parquet": lambda rows, file: pq.write_table(
        pa.Table.from_pylist(rows).cast(
            pa.schema([("uid", pa.int64()), ("ts", pa.string()), ("item", pa.string_view()), ("n", pa.float64())])
        ),
        file,
        version="1.0",
    ),
}


def _csv(rows: list[dict[str, Any]]) -> str:
    texts = [["" if v is None else f'"{v}"' if isinstance(v, str) else repr(v) for v in row.values()] for row in rows]
    return "\n".join([",".join(rows[0]), *map(",".join, texts)]) + "\n"


def test_the_same_data_in_all_formats(here: Config) -> None:
    numbers = [0.1 + 0.2, 1e-7, 12345678.125, -3.0, 1e16, None]
    rows = [
        {"uid": i % 4, "ts": f"2024-02-{10 + i:02d}T0{i}:30:00Z", "item": f"page {i}", "n": numbers[i % 6]}
        for i in range(10)
    ]
    here["modalities"]["view"] |= {"text": "{item} {uid}", "amount": "n"}
    here["features"] = [{"name": "n", "table": "clicks", "sql": "sum(n)"}]
    found = {}
    for kind, write in WRITERS.items():
        Path(kind).mkdir()
        write(rows, Path(kind, "clicks"))
        table(here, files=f"{kind}/clicks")
        prepared(here, f"{kind}/out")
        found[kind] = pa.concat_tables([pq.read_table(f) for f in sorted(Path(kind, "out/rows/pretrain").glob("*"))])
    assert all(rows.equals(found["csv"]) for rows in found.values())
    assert len(found["csv"]) == 4


FIELD = st.lists(st.sampled_from(["a", ",", '"', "\n", "\r\n", "é", " "]), max_size=4).map("".join)


@given(st.lists(st.tuples(FIELD, st.sampled_from(["1", "x", "1e39"]), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_dead_letters_name_their_line(here: Config, records: list[tuple[str, str, bool]]) -> None:
    """Quotes, line ends inside of them, blank lines and lines with too many columns before them change nothing."""
    content, expected = "uid,ts,item,price\n", []
    for field, price, extra in records:
        line = content.count("\n") + 1
        quoted = field.replace('"', '""')
        content += f'a,2024-02-20,"{quoted}x",{price}{",more" if extra else ""}\n' + ("\n" if price == "x" else "")
        if extra:
            expected.append((f"clicks.csv:{line}", "bad_line"))
        elif price != "1":
            expected.append((f"clicks.csv:{line}", "bad_value" if price == "x" else "non_finite_number"))
    Path("clicks.csv").write_bytes((content + "b,2024-02-20,z,1\n").encode())
    here["modalities"]["view"]["amount"] = "price"
    here["max_bad_share"] = 1.0
    config = data_config(here)
    with opened(config) as database:
        create_events(database, config)
        database.source.locate(database.connection)
        found = database.connection.execute("SELECT source, reason FROM rejected ORDER BY ALL").fetchall()
    assert found == sorted(expected)


def test_the_share_of_bad_rows_is_that_of_all_shards(here: Config) -> None:
    """Rows without a user all belong to the first shard."""
    Path("clicks.csv").write_text(
        "uid,ts,item\n" + ",2024-02-20,x\n" * 4 + "".join(f"u{i},2024-02-20,x\n" for i in range(6))
    )
    here["max_bad_share"] = 0.4
    assert len(history(here)) == 6
    here["max_bad_share"] = 0.39
    with pytest.raises(
        InputError, match=r"4 of 10 rows cannot be used, 4 of them for 'missing_user' \(for example clicks"
    ):
        prepared(here)


def test_types_of_texts(here: Config) -> None:
    """Whole numbers, else numbers that a double holds, else text, over all files."""
    columns = {
        "whole": ["1", "-3"], "fraction": ["1", "0.30000000000000004"], "long": ["1", "12345678901234567"],
        "zip": ["1", "01"], "flag": ["true", "False"], "gap": ["", "2"], "nan": ["NaN", "2.5"], "none": ["", ""],
    }  # fmt: skip
    for i in range(2):
        header, values = ",".join(columns), ",".join(values[i] for values in columns.values())
        Path(f"{i}.csv").write_text(f"uid,ts,item,{header}\na,2024-02-20,x,{values}\n")
    table(here, files="?.csv")
    here["features"] = [{"name": "x", "table": "clicks", "sql": f"count({name})"} for name in columns]
    here["features"] = [dict(feature, name=f"x{i}") for i, feature in enumerate(here["features"])]
    with opened(data_config(here)) as database:
        types = database.types["clicks"]
    assert types == {
        "whole": "BIGINT", "fraction": "DOUBLE", "long": "BIGINT", "zip": "VARCHAR", "flag": "BOOLEAN", "gap": "BIGINT",
        "nan": "DOUBLE", "none": "VARCHAR",
    }  # fmt: skip


def test_a_declared_type_may_have_any_of_its_names(here: Config) -> None:
    Path("clicks.csv").write_text("uid,ts,item,price\na,2024-02-20,x,nan\na,2024-02-21,x,2\n")
    table(here, types={"price": "float8"})
    here["features"] = [{"name": "spend", "table": "clicks", "sql": "sum(price)"}]
    prepared(here)
    assert features() == {"a": [2]}


def test_a_file_without_one_of_the_keys(here: Config) -> None:
    Path("1.json").write_text('{"uid": "a", "ts": "2024-02-20", "item": "x"}\n')
    Path("2.json").write_text('{"item": "y"}\n')
    table(here, files="*.json")
    assert history(here) == {"a": [("02-20 00:00:00", "x", None)]}
    assert dead_letters() == [("2.json:1", "missing_user")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04\x14\xff\xfe\x00,\x00", "expected CSV in UTF-8, JSON lines or Parquet"),
        ("uid,ts,item\n".encode("utf-16"), "expected CSV in UTF-8, JSON lines or Parquet"),
        (b'"uid"x,ts,item\na,2024-02-20,x\n', "the first line is no CSV"),
        (gzip.compress(b"uid,ts,item\n" + b"a,2024-02-20,x\n" * 9, mtime=0)[:30], "damaged|cannot be read"),
        (b"\x1f\x8b no gzip", "this gzip file is damaged"),
        (b"PAR1 no Parquet PAR1", "expected a Parquet file"),
    ],
    # gzip writes the time into its header: test names must be the same in every process
    ids=["zip", "utf-16", "quotes", "cut gzip", "no gzip", "no parquet"],
)
def test_files_that_are_something_else(here: Config, content: bytes, sentence: str) -> None:
    Path("clicks.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"data\.source\.tables\.clicks.*({sentence})"):
        prepared(here)

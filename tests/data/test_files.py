"""Own event files: time formats, hostile lines, shards, and sentences for mistakes."""

import gzip
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.data import prepare
from ray_ggsm.data.database import opened
from tests.helpers.data import data_config

NOON = datetime(2024, 2, 20, 12, tzinfo=UTC)


def times_of(config: dict) -> list[datetime]:
    with opened(data_config(config)) as database:
        micros = database.connection.execute("SELECT epoch_us(ts) FROM clicks ORDER BY 1").fetchall()
    return [datetime.fromtimestamp(m / 1e6, tz=UTC) for (m,) in micros]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("2024-02-20T12:00:00Z", {}),
        ("2024-02-20 12:00:00", {}),
        ("2024-02-20T13:00:00+01:00", {"timezone": "America/New_York"}),
        ("2024-02-20 07:00:00", {"timezone": "America/New_York"}),
        ("1708430400", {"time_format": "seconds"}),
        ("1708430400.0", {"time_format": "seconds"}),
        ("1708430400000", {"time_format": "milliseconds"}),
        ("20.02.2024 13:00", {"time_format": "%d.%m.%Y %H:%M", "timezone": "Europe/Berlin"}),
        ("20.02.2024 13:00 +0100", {"time_format": "%d.%m.%Y %H:%M %z"}),
    ],
)
def test_the_same_instant_in_many_spellings(tmp_path, monkeypatch, clicks, text, options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text(f"uid,ts,item,price\n7,{text},a,1\n")
    clicks["source"]["tables"]["clicks"] |= options
    assert times_of(clicks) == [NOON]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([NOON], pa.timestamp("us", tz="UTC")),
        pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")),
        pa.array(["2024-02-20T12:00:00"]),
    ],
)
def test_parquet_times(tmp_path, monkeypatch, clicks, column):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"uid": [7], "ts": column, "item": ["a"], "price": [1.5]}), "clicks.parquet")
    clicks["source"]["tables"]["clicks"]["files"] = "*.parquet"
    assert times_of(clicks) == [NOON]


def test_numbers_as_parquet_times_must_be_explained(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"uid": [7], "ts": [1708430400], "item": ["a"], "price": [1.5]}), "clicks.parquet")
    clicks["source"]["tables"]["clicks"]["files"] = "clicks.parquet"
    with pytest.raises(InputError, match=r"tables\.clicks\.time_format.*seconds, milliseconds"):
        prepare.check(data_config(clicks))


def test_bad_lines_are_set_aside_with_file_and_reason(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    lines = [
        b"uid,ts,item,price",
        *[b"%d,2024-02-20,a,1.5" % i for i in range(40)],
        b"1,yesterday,a,1",  # bad_time
        b"1,9999999999999,a,1",  # bad_time
        b",2024-02-20,a,1",  # missing_user
        b"1,2024-02-20,a,much",  # bad_value
        b"1,2024-02-20",  # bad_line
        b"1,2024-02-20,a,1,2",  # bad_line
        b"1,2024-02-20,\xff\xfe,1",  # bad_line
        b"1,2024-02-20, ,",  # null_text
        b"1,2024-02-20,a,",  # a missing amount is fine
    ]
    with gzip.open("clicks.csv.gz", "wb") as file:
        file.write(b"\n".join(lines) + b"\n")
    clicks["source"]["tables"]["clicks"]["files"] = "clicks.csv.gz"
    config = data_config(clicks)
    fitted = prepare.fit(config)
    counts = [prepare.write_shard(config, fitted, k, 3, "out") for k in range(3)]
    summary = prepare.write_summary(config, fitted, counts, "out")
    assert summary.dead_letters == {
        "bad_line": 3, "bad_time": 2, "bad_value": 1, "missing_user": 1, "null_text": 1,
    }  # fmt: skip
    letters = pq.read_table("out/dead_letters").to_pylist()
    assert {"clicks.csv.gz:46", "clicks.csv.gz:47", "clicks.csv.gz:48"} <= {letter["source"] for letter in letters}
    assert any("much" in letter["detail"] and letter["user_id"] == "1" for letter in letters)


def test_too_many_bad_rows_stop_the_run(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text("uid,ts,item,price\n" + "7,1708430400,a,1\n" * 5)
    config = data_config(clicks)
    fitted = prepare.fit(config)  # it has nothing to learn, so it reads no events
    counts = [prepare.write_shard(config, fitted, 0, 1, str(tmp_path / "out"))]
    with pytest.raises(InputError, match=r"5 of 5 rows.*bad_time.*1708430400.*time_format"):
        prepare.write_summary(config, fitted, counts, str(tmp_path / "out"))
    clicks["labels"]["much"] = {"group": "g", "table": "clicks", "sql": "count(*)", "above_quantile": 0.5}
    with pytest.raises(InputError, match=r"5 of 5 rows.*bad_time.*1708430400.*time_format"):
        prepare.fit(data_config(clicks))


def test_an_open_quote_never_swallows_lines_silently(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text('uid,ts,item,price\n7,2024-02-20,"a,1\n' + "7,2024-02-20,b,1\n" * 100)
    clicks["max_bad_share"] = 1.0
    with pytest.raises(InputError, match=r"line 2 of clicks\.csv.*quote: ''"):
        prepare.fit(data_config(clicks))
    clicks["source"]["tables"]["clicks"]["quote"] = ""
    assert len(times_of(clicks)) == 101


def test_types_of_csv_columns(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text("uid,ts,item,price,n,zip,ok\n007,2024-02-20,a,NA,3,01234,true\n")
    clicks["source"]["tables"]["clicks"] |= {"nulls": ["NA"]}
    clicks["features"] = [{"name": "x", "table": "clicks", "sql": "max(n) filter (ok and zip <> item)"}]
    with opened(data_config(clicks)) as database:
        kinds = database.columns("clicks")
        assert database.connection.execute("SELECT uid, zip, price FROM clicks").fetchall() == [("007", "01234", None)]
    assert (kinds["price"], kinds["n"], kinds["zip"], kinds["ok"]) == ("DOUBLE", "BIGINT", "VARCHAR", "BOOLEAN")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"user": "udi"}, r"tables\.clicks\.user.*no column 'udi'; did you mean 'uid'"),
        ({"time": "when"}, r"tables\.clicks\.time.*no column 'when'.*uid, ts, item, price"),
        ({"delimiter": ";"}, r"is the delimiter right"),
        ({"files": "nothing-*.csv"}, r"no file matches 'nothing-\*\.csv'"),
        ({"types": {"prise": "double"}}, r"tables\.clicks\.types.*'prise'; did you mean 'price'"),
        ({"types": {"price": "int) FROM (SELECT 1"}}, r"expected a DuckDB type"),
        ({"types": {"price": "dubble"}}, r"tables\.clicks.*dubble"),
        ({"timezone": "Mars/Base"}, r"IANA time zone"),
    ],
)
def test_mistakes_explain_themselves(tmp_path, monkeypatch, clicks, table, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text("uid,ts,item,price\n7,2024-02-20,a,1\n")
    clicks["source"]["tables"]["clicks"] |= table
    with pytest.raises(InputError, match=sentence):
        prepare.check(data_config(clicks))


def test_columns_are_found_by_name(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks1.csv").write_text("uid,ts,item,price\n7,2024-02-20 12:00,a,1\n")
    (tmp_path / "clicks2.csv").write_text("ts,uid,new,item,price\n2024-02-20 12:00,7,x,a,1\n")
    clicks["source"]["tables"]["clicks"]["files"] = "clicks*.csv"
    assert times_of(clicks) == [NOON, NOON]
    (tmp_path / "clicks3.csv").write_text("ts,uid,item\n2024-02-20,7,a\n")
    with pytest.raises(InputError, match=r"clicks3\.csv has no column 'price', which other files have"):
        prepare.check(data_config(clicks))


def test_the_database_has_no_way_out(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text("uid,ts,item,price\n7,2024-02-20,a,1\n")
    with opened(data_config(clicks)) as database:
        for statement in ("FROM 'clicks.csv'", "COPY clicks TO 'x.csv'", "SET enable_external_access = true"):
            with pytest.raises(duckdb.Error):
                database.connection.execute(statement).fetchall()


def test_the_input_state_follows_the_file(tmp_path, monkeypatch, clicks):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text("uid,ts,item,price\n")
    before = prepare.input_state(data_config(clicks))
    (tmp_path / "clicks.csv").write_text("uid,ts,item,price\n7,2024-02-20,a,1\n")
    assert prepare.input_state(data_config(clicks)) != before

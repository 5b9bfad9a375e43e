"""One user's file: everything about one person, nothing about others, and nothing on the terminal."""

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.cli.user_export import plain
from ray_ggsm.data.pseudonyms import pseudonym
from ray_ggsm.data.store.bucket_files import write_bucket
from ray_ggsm.data.store.columns import REJECTED
from ray_ggsm.data.store.layout import create, table_place
from ray_ggsm.data.store.manifest import NO_REJECTED, Manifest, TableState
from ray_ggsm.data.store.seal import apply, schema_of
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import open_table
from ray_ggsm.tables.maintenance import forget, rollback
from tests.helpers.tables import put, rows
from tests.tables.test_maintenance import job

STORE_BUCKETS = 4
NOON = dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC)


def export(table: str, user: str, place: Path, *more: object) -> dict:
    """The content of the file that `tables.py user` writes."""
    assert job("user", table, "--user", user, "--output", place / "out.json", *more) == 0
    assert (place / "out.json").stat().st_mode & 0o777 == 0o600
    return json.loads((place / "out.json").read_text())


def make_store(location: str, records: list[tuple[str, float]], rejected: list[str]) -> None:
    """A store with a table `orders`, and rejected records."""
    create(location, STORE_BUCKETS)
    columns = {"who": "VARCHAR", "at": "TIMESTAMP WITH TIME ZONE", "amount": "DOUBLE"}
    orders = TableState(version=-1, user="who", time="at", columns=columns, texts=(), rows=0)
    manifest = Manifest(sequence=1, operation="ingest", tables={"orders": orders, REJECTED: NO_REJECTED})
    written: dict[str, list] = {"orders": [], REJECTED: []}
    given = {
        "orders": [{"who": who, "at": NOON, "amount": amount} for who, amount in records],
        REJECTED: [{"user_id": user, "table": "orders", "reason": "no_time"} for user in rejected],
    }
    for name, state in manifest.tables.items():
        table = pa.Table.from_pylist(given[name], schema_of(name, state))
        bucket_N = bucket_of(table["user_id" if name == REJECTED else "who"], STORE_BUCKETS)
        for bucket in np.unique(bucket_N).tolist():
            of_bucket = table.filter(pa.array(bucket_N == bucket))
            place = table_place(location, name)
            written[name].append(write_bucket(of_bucket, place, state.time, bucket, (1, 1), manifest.run))
    apply(location, manifest, written, {})


def test_all_versions_and_no_other_user(tmp_path, capsys):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, pa.concat_tables([rows(31, seed=1), rows(31, seed=2, instruction="churn")]), "r1")
    forget(location, ["u4"], b"0123456789abcdef")
    rollback(location, 0, key=b"0123456789abcdef")
    table = open_table(location)
    letters = pa.table({"user_id": ["u3", "u4"], "reason": ["too long", "no events"]})
    (tmp_path / "users/staging/r9/dead_letters/of-7").mkdir(parents=True)
    pq.write_table(letters, tmp_path / "users/staging/r9/dead_letters/of-7/00000000-invalid.parquet")

    found = export(location, "u3", tmp_path)
    expected = {version: table.read(version=version, user_ids=["u3"]).to_pylist() for version in range(4)}
    assert [version["version"] for version in found["table"]["versions"]] == [0, 1, 2, 3]
    for version in found["table"]["versions"]:
        got = [{**row, "as_of": dt.datetime.fromisoformat(row["as_of"])} for row in version["rows"]]
        assert got == expected[version["version"]]
    assert [version["operation"] for version in found["table"]["versions"]] == [
        "publish",
        "publish",
        "forget",
        "rollback",
    ]
    assert found["table"]["unreadable_versions"] == []
    (dead,) = found["table"]["dead_letters"].values()
    assert dead == [{"user_id": "u3", "reason": "too long"}]
    assert set(found) == {"user", "table"}
    text = (tmp_path / "out.json").read_text()
    assert not any(f'"u{i}"' in text for i in range(31) if i != 3)
    assert "u3" not in capsys.readouterr().out.replace(str(tmp_path), "")


def test_versions_that_are_gone_are_named(tmp_path, capsys):
    location = str(tmp_path / "users")
    for number in range(3):
        put(location, rows(20, seed=number, run=f"r{number}"), f"r{number}")
    bucket = int(bucket_of(pa.array(["u3"]), 5)[0])
    (tmp_path / f"users/data/r1/bucket={bucket}/part-00000.parquet").unlink()
    (tmp_path / f"users/data/r0/bucket={(bucket + 1) % 5}/part-00000.parquet").unlink()  # others' file
    found = export(location, "u3", tmp_path)
    assert [version["version"] for version in found["table"]["versions"]] == [0, 2]
    assert found["table"]["unreadable_versions"] == [1]
    assert "1 versions can no longer be read" in capsys.readouterr().out


def test_rows_and_store(tmp_path):
    location, store = str(tmp_path / "users"), str(tmp_path / "events")
    put(location, rows(5), "r0")
    make_store(store, [("u3", 1.5), ("u4", 2.0), ("u3", 3.0), ("u99", 4.0)], ["u3", "u4"])
    (tmp_path / "rows").mkdir()
    for name, kind in [("a", pa.string()), ("b", pa.large_string()), ("c", pa.dictionary(pa.int32(), pa.string()))]:
        users = pa.array(["u3", "u4"]).cast(kind)
        pq.write_table(
            pa.table({"user_id": users, "clicks": [[{"time": NOON, "text": name}], []]}),
            f"{tmp_path}/rows/{name}.parquet",
        )
    pq.write_table(pa.table({"user_id": ["u4"]}), tmp_path / "rows" / "d.parquet")
    found = export(location, "u3", tmp_path, "--rows", tmp_path / "rows/*.parquet", "--store", store)
    at = NOON.isoformat()
    assert found["rows"]["files"] == {
        f"{tmp_path}/rows/{name}.parquet": [{"user_id": "u3", "clicks": [{"time": at, "text": name}]}] for name in "abc"
    }
    orders = found["store"]["tables"]["orders"]
    assert [(order["who"], order["at"], order["amount"]) for order in orders] == [("u3", at, 1.5), ("u3", at, 3.0)]
    assert [(each["user_id"], each["reason"]) for each in found["store"]["tables"]["rejected"]] == [("u3", "no_time")]
    text = (tmp_path / "out.json").read_text()
    assert "u4" not in text
    assert "u99" not in text


def test_pseudonyms(tmp_path):
    location, key, store = str(tmp_path / "users"), b"k" * 32, str(tmp_path / "events")
    names = {name: pseudonym(name, key) for name in ("ann", "bob")}
    put(location, rows(list(names.values())), "r0")
    make_store(store, [("ann", 1.0), ("bob", 2.0)], ["bob"])  # a store knows the ids of the source
    (tmp_path / "key").write_bytes(key)
    found = export(location, "ann", tmp_path, "--key-file", tmp_path / "key", "--store", store)
    assert (found["user"], found["pseudonym"]) == ("ann", names["ann"])
    (version,) = found["table"]["versions"]
    assert [row["user_id"] for row in version["rows"]] == [names["ann"]]
    assert [order["who"] for order in found["store"]["tables"]["orders"]] == ["ann"]
    text = (tmp_path / "out.json").read_text()
    assert names["bob"] not in text
    assert "bob" not in text


def test_a_forgotten_user(tmp_path, capsys):
    """With the key no row is shown, but where there are some until `vacuum`; without it nobody can tell."""
    location, key = str(tmp_path / "users"), b"k" * 32
    (tmp_path / "key").write_bytes(key)
    put(location, rows(10), "r0")
    put(location, rows(8, seed=1), "r1")
    assert export(location, "u9", tmp_path)["table"]["forgotten"] is False, "nobody was"
    forget(location, ["u3", "u9"], key)
    letters = tmp_path / "users/staging/r9/dead_letters/of-7/00000000-invalid.parquet"
    letters.parent.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": ["u3", "u4"], "reason": ["too long", "no events"]}), letters)
    capsys.readouterr()

    arguments = ["user", location, "--output", tmp_path / "out.json", "--key-file", tmp_path / "key"]
    assert job(*arguments, "--user", "u3") == 5
    found = json.loads((tmp_path / "out.json").read_text())["table"]
    assert (found["forgotten"], found["versions"], found["dead_letters"]) == (True, [], {})
    assert found["held"] == {"versions": [0, 1], "dead_letters": [str(letters)]}
    printed = capsys.readouterr().out
    assert "2 versions and 1 files of dead letters hold rows of this user until `vacuum`" in printed
    assert "not there" not in printed
    assert job(*arguments, "--user", "u9") == 5
    assert json.loads((tmp_path / "out.json").read_text())["table"]["held"]["versions"] == [0]
    other = export(location, "u4", tmp_path, "--key-file", tmp_path / "key")["table"]
    assert (other["forgotten"], len(other["versions"]), len(other["dead_letters"])) == (False, 3, 1)

    capsys.readouterr()
    without = export(location, "u9", tmp_path)["table"]
    assert (without["forgotten"], [each["version"] for each in without["versions"]]) == (None, [0])
    assert "without --key-file nobody can tell" in capsys.readouterr().out
    (tmp_path / "other").write_bytes(b"x" * 32)
    assert job("user", location, "--user", "u9", "--output", tmp_path / "o", "--key-file", tmp_path / "other") == 2
    assert "found another key" in capsys.readouterr().err


def test_nobody_and_wrong_input(tmp_path, capsys):
    location, output = str(tmp_path / "users"), tmp_path / "out.json"
    put(location, rows(5), "r0")
    assert job("user", location, "--user", "somebody", "--output", output) == 5
    assert "not there: nothing is known" in capsys.readouterr().out
    assert json.loads(output.read_text())["table"]["versions"] == []
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    for more, sentence in [
        (["--rows", tmp_path / "none*.parquet"], "no file matches"),
        (["--rows", tmp_path / "other.parquet"], "expected a Parquet file of user rows"),
        (["--rows", tmp_path / "a.parquet"], "expected a column user_id"),
        (["--store", tmp_path], "no event store here"),
        (["--user", " "], "--user: expected a user_id"),
    ]:
        assert job("user", location, "--user", "somebody", "--output", output, *more) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert "somebody" not in error


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (Decimal("1.10"), "1.10"),
        (b"\x00\xff", "AP8="),
        (dt.date(2024, 3, 1), "2024-03-01"),
        ({"a": [(1, None), True]}, {"a": [[1, None], True]}),
    ],
)
def test_values_as_json(value, expected):
    assert plain(value) == expected

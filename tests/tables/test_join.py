"""Joins at a point in time, against a reference that reads every version and loops over all rows."""

import datetime as dt
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_ggsm.config import InputError
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import open_table, scan
from ray_ggsm.tables.maintenance import forget, rollback, vacuum
from ray_ggsm.tables.schema import rows_to_table
from tests.helpers.tables import publish_files, stage

BUCKETS = 3
USERS = [f"u{i}" for i in range(7)]
START = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
DAYS = st.integers(0, 6)
Vector = tuple[dt.datetime, int, list[float]]
"""as_of, version and embedding."""


def day(number: float) -> dt.datetime:
    return START + dt.timedelta(days=number)


def vectors(wanted: list[tuple[str, int]], seed: int, encoder: str = "enc1", instruction: str = "default") -> pa.Table:
    """Rows of users at days."""
    users, days = ([row[k] for row in wanted] for k in (0, 1))
    vector_ND = np.random.default_rng(seed).normal(size=(len(wanted), 2)).astype(np.float32)
    as_of = pa.array([day(number) for number in days], pa.timestamp("us", "UTC"))
    N = np.arange(len(wanted))
    return rows_to_table(pa.array(users, pa.string()), as_of, instruction, N, N, vector_ND, encoder, f"r{seed}")


KEY = b"0123456789abcdef"


@dataclass
class History:
    """A table, and what a plain reader saw of each version when it was the newest."""

    location: str
    versions: list[list[dict]] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    forgotten: list[tuple[int, set[str]]] = field(default_factory=list)

    def saw(self, parent: int | None = None) -> None:
        table = open_table(self.location)
        self.versions.append(table.read().to_pylist())
        self.parents.append(table.version - 1 if parent is None else parent)

    def night(self, rows: pa.Table, replaced: list[int] | None = None, metadata: dict | None = None) -> None:
        if replaced is not None:
            rows = rows.filter(pa.array(np.isin(bucket_of(rows["user_id"], BUCKETS), replaced)))
        run = f"r{len(self.versions)}"
        files = stage(self.location, rows, run, BUCKETS)
        options = {"buckets": BUCKETS, "replaced": replaced, "metadata": metadata or {"encoder": "enc1"}}
        publish_files(self.location, files, run, **options)
        self.saw()

    def forget(self, users: list[str]) -> None:
        there = {row["user_id"] for row in self.versions[-1]} & set(users)
        if there:
            forget(self.location, there, KEY)
            self.forgotten.append((len(self.versions), there))
            self.saw()

    def rollback(self, version: int) -> None:
        rollback(self.location, version, key=KEY)
        self.saw(version)

    def commit_at(self, hours: list[float]) -> None:
        """Give versions times of their own, hours after START."""
        for version, hour in enumerate(hours):
            log = Path(self.location, "_delta_log", f"{version:020}.json")
            lines = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
            for line in lines:
                if "commitInfo" in line:
                    line["commitInfo"]["timestamp"] = int((START.timestamp() + 3600 * hour) * 1000)
            log.write_text("\n".join(map(json.dumps, lines)))

    def basis(self, newest: int) -> list[int]:
        """A version and those that it was built on."""
        versions = []
        while newest >= 0:
            versions.append(newest)
            newest = self.parents[newest]
        return versions

    def reference(self, user: str, time: dt.datetime, newest: int) -> Vector | None:
        """The vector that counts when `newest` is the newest known version."""
        best: Vector | None = None
        for version in self.basis(newest):
            withheld = any(version < at and user in users for at, users in self.forgotten)
            for row in [] if withheld else self.versions[version]:
                if row["user_id"] == user and row["as_of"] <= time and (best is None or row["as_of"] > best[0]):
                    best = row["as_of"], version, row["embedding"]
        return best


def early_rows(history: History, path: str, published: dt.datetime) -> dict[str, list[dt.datetime]]:
    """User -> moments of the file's vectors that lie after its publication."""
    found: dict[str, list[dt.datetime]] = {}
    for row in pq.read_table(Path(history.location, path), columns=["user_id", "as_of"]).to_pylist():
        if row["as_of"] > published:
            found.setdefault(row["user_id"], []).append(row["as_of"])
    return found


def asked(rows: list[tuple[str, float]], **more: list) -> pa.Table:
    users, days = ([row[k] for row in rows] for k in (0, 1))
    times = pa.array([day(number) for number in days], pa.timestamp("us", "UTC"))
    return pa.table({"user_id": pa.array(users, pa.string()), "time": times, **more})


def found(table: pa.Table) -> list[Vector | None]:
    return [
        None if row["as_of"] is None else (row["as_of"], row["version"], row["embedding"]) for row in table.to_pylist()
    ]


ROWS = st.lists(st.tuples(st.sampled_from(USERS), DAYS), unique=True, max_size=10)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("night"), ROWS, st.none() | st.lists(st.integers(0, BUCKETS - 1), min_size=1, unique=True)),
        st.tuples(st.just("forget"), st.lists(st.sampled_from(USERS), min_size=1, max_size=3)),
        st.tuples(st.just("rollback"), st.integers(0, 9)),
    ),
    max_size=7,
)


def history_of(location: str, steps: list) -> History:
    history = History(location)
    history.night(vectors([(user, 0) for user in USERS[:4]], 1000))
    for seed, (kind, *values) in enumerate(steps):
        if kind == "night":
            history.night(vectors(values[0], seed), values[1])
        elif kind == "forget":
            history.forget(values[0])
        elif len(history.versions) > 1:
            history.rollback(values[0] % (len(history.versions) - 1))
    history.commit_at([10 * version for version in range(len(history.versions))])
    return history


@settings(max_examples=40, deadline=None)
@given(STEPS, st.lists(st.tuples(st.sampled_from([*USERS, "nobody"]), st.floats(-1, 7)), max_size=20), st.data())
def test_join_equals_the_reference(tmp_path_factory, steps, rows, data):
    history = history_of(str(tmp_path_factory.mktemp("t") / "users"), steps)
    table, newest = open_table(history.location), len(history.versions) - 1
    rows = [(user, round(number * 24) / 24) for user, number in rows]
    times = [day(number) for _, number in rows]
    expected = [history.reference(user, time, newest) for (user, _), time in zip(rows, times, strict=True)]
    assert found(table.join(asked(rows))) == expected

    known = data.draw(st.lists(st.integers(-5, 10 * newest + 5), min_size=len(rows), max_size=len(rows)))
    labels = asked(rows, seen=pa.array([day(hour / 24) for hour in known], pa.timestamp("us", "UTC")))
    joined = table.join(labels, known_at="seen")
    expected = [
        history.reference(user, time, hour // 10) for (user, _), time, hour in zip(rows, times, known, strict=True)
    ]
    assert found(joined) == expected
    assert joined.select(labels.column_names).equals(labels)
    commits = {commit.version: commit.timestamp for commit in table.history()}
    for row in joined.to_pylist():  # no leak, said in other words
        assert row["as_of"] is None or (row["as_of"] <= row["time"] and commits[row["version"]] <= row["seen"])
    if known:
        one = table.join(asked(rows), known_at=day(known[0] / 24))
        assert found(one) == [
            history.reference(user, time, known[0] // 10) for (user, _), time in zip(rows, times, strict=True)
        ]


@settings(max_examples=40, deadline=None)
@given(STEPS, st.data())
def test_after_a_vacuum_never_another_vector(tmp_path_factory, steps, data):
    """Whatever is gone: the same answer as before, or a refusal, and none where the user's files are there.

    This table records no moments. Cases are skipped in which a file that is gone had a vector of a moment after the
    file was published, and no other file shows that this happens.
    """
    history = history_of(str(tmp_path_factory.mktemp("t") / "users"), steps)
    table, newest = open_table(history.location), len(history.versions) - 1
    held = {file.path: file for version in range(newest + 1) for file in table.data_files(version)}
    kept = {file.path for file in table.data_files()}
    gone = data.draw(st.sets(st.sampled_from(sorted(held.keys() - kept)))) if held.keys() - kept else set()
    first = {file.path: version for version in range(newest, -1, -1) for file in table.data_files(version)}
    history.commit_at([30 * version for version in range(newest + 1)])
    early = {path: early_rows(history, path, day(30 * version / 24)) for path, version in first.items()}
    for path in gone:
        Path(history.location, path).unlink()
    buckets = dict(zip(USERS, bucket_of(pa.array(USERS), BUCKETS).tolist(), strict=True))
    refused = 0
    for user in data.draw(st.sets(st.sampled_from(USERS), min_size=2, max_size=2)):
        for number, known in [(3.5, newest), (6, newest), (5, newest // 2)]:
            expected = history.reference(user, day(number), known)
            counting = {file.path for version in history.basis(known) for file in table.data_files(version)}
            hidden = any(time <= day(number) for path in counting & gone for time in early[path].get(user, ()))
            if hidden and not any(user in early[path] for path in counting - gone):
                continue
            try:
                assert found(table.join(asked([(user, number)]), known_at=day(30 * known / 24))) == [expected]
            except InputError as error:
                assert "whose files vacuum has removed" in str(error)  # noqa: PT017
                refused += 1
                assert any(held[path].bucket == buckets[user] for path in gone)
    assert gone or not refused


def test_what_is_refused_after_a_vacuum(tmp_path):
    """Recorded ages, the commits' times, and max_age say which files that are gone do not matter."""
    history = History(str(tmp_path / "users"))
    for number in range(4):
        history.night(vectors([(user, number) for user in USERS], number))
    history.commit_at([24 * number + 3 for number in range(4)])
    before = found(open_table(history.location).join(asked([("u1", 3.5), ("u2", 3)])))
    vacuum(history.location, 0, dry_run=False)
    table = open_table(history.location)
    assert found(table.join(asked([("u1", 3.5), ("u2", 3)]))) == before  # older files cannot have newer ones
    for rows, options, versions in [
        ([("u1", 3.5), ("u2", 2.5)], {}, "0 to 2"),
        ([("nobody", 3.5)], {}, "0 to 2"),
        ([("u1", 3.5)], {"known_at": day(1.5)}, "0 to 1"),
    ]:
        with pytest.raises(InputError, match=rf"1 of \d rows of a bucket may need vectors of version {versions}, "):
            table.join(asked(rows), **options)
    assert found(table.join(asked([("u1", -0.5)]), known_at=day(-1))) == [None]  # no version was known
    assert found(table.join(asked([("nobody", 3.5)]), max_age=dt.timedelta(hours=6))) == [None]
    with pytest.raises(InputError, match="may need"):
        table.join(asked([("nobody", 3.5)]), max_age=dt.timedelta(days=1, hours=12))


@pytest.mark.parametrize("recorded", [True, False])
def test_vectors_of_the_future_of_their_commit(tmp_path, recorded):
    """Then commits' times say nothing about files that are gone, but recorded ages do."""
    history = History(str(tmp_path / "users"))
    for number in (2, 5):
        ages = {"ages": {day(number).isoformat(): len(USERS)}} if recorded else {}
        history.night(vectors([(user, number) for user in USERS], number), metadata={"encoder": "enc1", **ages})
    history.commit_at([1, 2])
    table = open_table(history.location)
    before = found(table.join(asked([("u1", 6)])))
    vacuum(history.location, 0, dry_run=False)
    if recorded:
        assert found(table.join(asked([("u1", 6)]))) == before
        assert found(table.join(asked([("u1", 1)]))) == [None]
    else:
        with pytest.raises(InputError, match="may need vectors of version 0,"):
            table.join(asked([("u1", 6)]))


def test_a_forget_stands_in_for_the_file_before_it(tmp_path):
    history = History(str(tmp_path / "users"))
    history.night(vectors([(user, 0) for user in USERS], 0))
    history.forget(["u1", "u2"])
    history.forget(["u3"])
    history.commit_at([1, 2, 3])
    table = open_table(history.location)
    rows = [(user, 4.0) for user in USERS]
    before = [found(table.join(asked(rows), known_at=day(hour / 24))) for hour in (1, 2, 3)]
    vacuum(history.location, 0, dry_run=False)
    assert [found(table.join(asked(rows), known_at=day(hour / 24))) for hour in (1, 2, 3)] == before
    assert before[0][1:4] == [None] * 3  # they are forgotten for every moment
    assert [vector is None for vector in before[2]] == [user in ("u1", "u2", "u3") for user in USERS]


def test_who_may_have_been_forgotten_is_refused(tmp_path):
    """Version 0 still has both users, and the file that says which of them was forgotten is gone."""
    history = History(str(tmp_path / "users"))
    users = [user for user in (f"u{i}" for i in range(99)) if bucket_of(pa.array([user]), BUCKETS)[0] == 0][:3]
    history.night(vectors([(user, 0) for user in users], 0))
    history.night(vectors([(users[0], 1), (users[2], 1)], 1))
    history.forget(users[:1])
    table = open_table(history.location)
    rows = asked([(user, 2) for user in users])
    assert [row["version"] for row in table.join(rows).to_pylist()] == [None, 0, 2]
    Path(table.files(1)[0]).unlink()
    assert table.join(rows.slice(2))["version"].to_pylist() == [2]
    for place in (0, 1):
        with pytest.raises(InputError, match="may need vectors of version 1,"):
            table.join(rows.slice(place, 1))


def test_each_column_of_a_file_is_read_once(tmp_path, monkeypatch):
    history = History(str(tmp_path / "users"))
    for number in range(4):
        history.night(vectors([(user, number) for user in USERS], number))
    read: list[tuple[str, str]] = []
    users, positions = scan.read_users, scan.read_positions

    def read_users(file, columns, some):
        read.extend((file, column) for column in columns)
        return users(file, columns, some)

    def read_positions(file, column, position_N):
        read.append((file, column))
        return positions(file, column, position_N)

    monkeypatch.setattr(scan, "read_users", read_users)
    monkeypatch.setattr(scan, "read_positions", read_positions)
    rows = [(user, number) for user in USERS for number in (1, 3, 1.5) for _ in range(2)]
    batches = list(open_table(history.location).join_batches(asked(rows)))
    assert len(batches) == BUCKETS
    assert len(read) == len(set(read)) == 4 * BUCKETS * 4 + 2 * BUCKETS
    assert {file.split("/")[-3] for file, column in read if column == "embedding"} == {"r1", "r3"}


def test_instructions_and_encoders(tmp_path):
    history = History(str(tmp_path / "users"))
    history.night(vectors([("u1", 0), ("u2", 0)], 0))
    history.night(vectors([("u1", 1)], 1, "enc2"), metadata={"encoder": "enc2"})
    table = open_table(history.location)
    both = asked([("u1", 2), ("u2", 2)])
    with pytest.raises(InputError, match=r"several encoders \('enc1', 'enc2'\); say which with encoder="):
        table.join(both)
    assert table.join(both, encoder="enc1")["version"].to_pylist() == [0, 0]
    newest = table.join(both, encoder="enc2")
    assert newest["version"].to_pylist() == [1, None]
    assert newest["encoder"].to_pylist() == ["enc2", None]
    assert newest.schema.metadata[b"ray_ggsm.rows_without_vector"] == b"1"
    assert table.join(asked([("u1", 2)]))["version"].to_pylist() == [1]  # all that is used is of one encoder
    with pytest.raises(InputError, match="encoder: expected one of enc1, enc2, found 'enc3'"):
        table.join(both, encoder="enc3")

    history.night(pa.concat_tables([vectors([("u1", 3)], 2), vectors([("u1", 3)], 3, instruction="churn")]))
    table = open_table(history.location)
    with pytest.raises(InputError, match=r"several instructions \('churn', 'default'\)"):
        table.join(asked([("u1", 4)]))
    churn = table.join(asked([("u1", 4)]), instruction="churn")
    wanted = vectors([("u1", 3)], 3)["embedding"].to_pylist()
    assert churn["embedding"].to_pylist() == wanted


@pytest.mark.parametrize(
    "config", [{"mask": "inference"}, {"mask": "trained", "instructions": {"default": "Who is this?"}}]
)
def test_spaces_of_one_encoder(tmp_path, config):
    """Another mask, or another text behind the instruction, gives vectors that do not compare."""
    history = History(str(tmp_path / "users"))
    usual = {"mask": "trained", "instructions": {"default": ""}}
    history.night(vectors([("u1", 0), ("u2", 0)], 0), metadata={"encoder": "enc1", "config": usual})
    history.night(vectors([("u1", 1)], 1), metadata={"encoder": "enc1", "config": config})
    history.commit_at([0, 24])
    table = open_table(history.location)
    both = asked([("u1", 2), ("u2", 2)])
    with pytest.raises(InputError, match=r"several spaces \(versions 0, 1\).*say known_at= or compatible_with="):
        table.join(both)
    with pytest.raises(InputError, match="several spaces"):
        table.join(both, encoder="enc1")
    assert table.join(both, known_at=day(0.5))["version"].to_pylist() == [0, 0]
    assert table.join(asked([("u1", 2)]))["version"].to_pylist() == [1]  # all that is used is of one space
    with pytest.raises(InputError, match="no map leads"):
        table.join(both, compatible_with=0)


def test_dates_are_midnights_in_the_rows_zone(tmp_path):
    history = History(str(tmp_path / "users"))
    zone = {"encoder": "enc1", "timezone": "Europe/Berlin"}
    rows = vectors([("u1", 0), ("u1", 1)], 0)
    hour = pa.array([day(-1 / 24), day(1)], pa.timestamp("us", "UTC"))  # the first is midnight in Berlin
    history.night(rows.set_column(1, "as_of", hour), metadata=zone)
    table = open_table(history.location)
    march = dt.date(2024, 3, 1)
    for time, expected in [
        (pa.array([march]), day(-1 / 24)),
        (pa.array([march], pa.date64()), day(-1 / 24)),
        (pa.array([dt.datetime(2024, 3, 1)], pa.timestamp("ns")), day(-1 / 24)),
        (pa.array([dt.datetime(2024, 2, 29, 23, 59)], pa.timestamp("s")), None),
        (pa.array([dt.datetime(2024, 3, 2, 0, 59)]), day(-1 / 24)),
        (pa.array([dt.datetime(2024, 3, 2, 1)]), day(1)),
        (pa.array([day(0)], pa.timestamp("ms", "America/Lima")), day(-1 / 24)),
    ]:
        keys = pa.table({"user_id": ["u1"], "time": time})
        assert table.join(keys)["as_of"].to_pylist() == [expected]
    history.commit_at([-1])  # at midnight in Berlin
    table, keys = open_table(history.location), asked([("u1", 0)])
    for known, seen in [("2024-03-01", True), (march, True), ("2024-02-29T23:59:59", False), (day(0), True)]:
        assert (table.join(keys, known_at=known)["as_of"][0].is_valid) == seen


def test_what_keys_come_in(tmp_path):
    history = History(str(tmp_path / "users"))
    history.night(vectors([(user, 0) for user in USERS], 0))
    table = open_table(history.location)
    rows = asked([(user, 1) for user in reversed(USERS)], label=[1, 2, 3] * 2 + [4])
    expected = table.join(rows)
    assert expected["label"].equals(rows["label"])
    forms = [rows.to_batches(max_chunksize=2), rows.to_reader(2), iter(rows.to_batches()), rows.to_batches()[0]]
    forms += [rows.to_pandas(), pl.from_arrow(rows)]
    forms += [rows.set_column(0, "user_id", rows["user_id"].dictionary_encode())]
    for form in forms:
        joined = table.join(form)
        assert found(joined) == found(expected)
        assert joined["label"].to_pylist() == rows["label"].to_pylist()
    assert pa.Table.from_batches(table.join_batches(rows)).sort_by("user_id").equals(expected.sort_by("user_id"))
    none = table.join(rows.slice(0, 0))
    assert (none.num_rows, none.column_names) == (0, expected.column_names)


def test_wrong_keys(tmp_path):
    history = History(str(tmp_path / "users"))
    history.night(vectors([("u1", 0)], 0))
    table, good = open_table(history.location), asked([("u1", 1)])
    for keys, sentence in [
        (good.drop_columns("time"), "expected one column 'time' beside others, found the columns user_id"),
        (good.append_column("as_of", good["time"]), "a column 'as_of' of its own"),
        (pa.table({"user_id": [1], "time": good["time"]}), "expected texts in the column 'user_id', found int64"),
        (pa.table({"user_id": pa.array([None], pa.string()), "time": good["time"]}), "1 of 1 rows have no user_id"),
        (pa.table({"user_id": ["u1"], "time": ["2024-03-01"]}), "expected timestamps or dates in the column 'time'"),
        (pa.table({"user_id": ["u1"], "time": pa.array([None], pa.date32())}), "1 of 1 rows have no 'time'"),
        ([{"user_id": "u1"}], "expected an Arrow table, a pandas frame or Arrow record batches"),
    ]:
        with pytest.raises(InputError, match=sentence):
            table.join_batches(keys)  # before the first batch is asked for
    with pytest.raises(InputError, match="known_at: expected an ISO date or time such as 2024-03-01, found 'seen'"):
        table.join(good, known_at="seen")
    with pytest.raises(InputError, match="max_age: expected a time span of 0 or more"):
        table.join(good, max_age=-dt.timedelta(days=1))


def test_on_object_storage(s3):
    history = History(s3)
    history.night(vectors([(user, 0) for user in USERS], 0))
    history.night(vectors([(user, 1) for user in USERS], 1))
    table = open_table(s3)
    rows = [("u1", 0.5), ("u2", 1), ("nobody", 1)]
    assert found(table.join(asked(rows))) == [history.reference(user, day(number), 1) for user, number in rows]
    vacuum(s3, 0, dry_run=False)
    with pytest.raises(InputError, match="may need vectors of version 0,"):
        table.join(asked(rows))

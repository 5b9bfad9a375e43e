"""The event store holds every record once, and whole changes only, whatever happens while they are made."""

import datetime as dt
import json
import random
from contextlib import nullcontext
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ray_ggsm import storage
from ray_ggsm.cli.jobs import JOBS
from ray_ggsm.cli.main import run
from ray_ggsm.cli.store import run_command
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.database import Database, TableRows, count_rows
from ray_ggsm.data.sources.source import CREATE_REJECTED, Extract
from ray_ggsm.data.store import seal
from ray_ggsm.data.store.manifest import read_manifests, read_state
from ray_ggsm.data.store.source import EventStore
from ray_ggsm.hashing import pseudonym
from ray_ggsm.on_ray import ingest as job
from ray_ggsm.on_ray import store as changes
from ray_ggsm.on_ray.ingest import ingest
from tests.helpers.event_store import Event, events, held, ingest_config, write_day
from tests.helpers.s3_server import BUCKET

DAYS = ["2025-03-01", "2025-03-02", "2025-03-03"]
HALF_YEAR = ["2025-01-01", "2025-02-01", "2025-03-01", "2025-04-01", "2025-05-25", "2025-06-01"]
KEY = "k" * 32


def a_day(day: str, users: int = 6, seed: int = 0) -> list[Event]:
    draw = random.Random(f"{day} {seed}")
    return sorted(
        (f"u{draw.randrange(users)}", f"{day} {draw.randrange(24):02}:{draw.randrange(60):02}:00", f"item {k}")
        for k in range(20)
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three days of events."""
    for day in DAYS:
        write_day(tmp_path, day, a_day(day))
    return tmp_path


def everything() -> list[Event]:
    return sorted(event for day in DAYS for event in a_day(day))


def day(text: str) -> dict[str, dt.date]:
    return {"day": dt.date.fromisoformat(text)}


def test_days_one_by_one_are_all_of_time(place: Path, tmp_path: Path, capsys) -> None:
    by_day, at_once = str(tmp_path / "by_day"), str(tmp_path / "at_once")
    ingest(ingest_config(place, by_day, **day(DAYS[0])))
    assert events(by_day) == a_day(DAYS[0])
    ingest(ingest_config(place, by_day, **day(DAYS[1]), last_day=dt.date(2025, 3, 3)))
    ingest(ingest_config(place, at_once))
    assert events(by_day) == events(at_once) == everything()
    assert events(by_day, 2) == sorted(a_day(DAYS[0]) + a_day(DAYS[1])), "an older manifest is as it was"
    rows = held(by_day)
    assert sorted(set(zip(rows["_store_sequence"].to_pylist(), rows["_store_day"].to_pylist(), strict=True))) == [
        (1, DAYS[0]), (2, DAYS[1]), (3, DAYS[2])
    ]  # fmt: skip
    buckets = set(zip(rows["uid"].to_pylist(), rows["_store_bucket"].to_pylist(), strict=True))
    assert len(buckets) == len({user for user, _ in buckets}), "a user is in one bucket"
    ingest(ingest_config(place, by_day))
    assert "the store has all of it (manifest 3)" in capsys.readouterr().out


def test_a_content_is_taken_once_and_a_name_stands_for_its_last_content(place: Path, tmp_path: Path, capsys) -> None:
    store = str(tmp_path / "store")
    ingest(ingest_config(place, store))
    again = write_day(place, DAYS[0], a_day(DAYS[0]), part="copy")
    corrected = write_day(place, DAYS[1], a_day(DAYS[1], seed=1))
    ingest(ingest_config(place, store))
    out = capsys.readouterr().out
    assert f"{again} has the content of" in out
    assert f"{corrected} has other content than before" in out
    expected = sorted(a_day(DAYS[0]) + a_day(DAYS[1], seed=1) + a_day(DAYS[2]))
    assert events(store) == expected
    assert events(store, 1) == everything()
    write_day(place, DAYS[1], a_day(DAYS[1]))
    changes.compact(store, 7)
    ingest(ingest_config(place, store))
    assert events(store) == everything(), "after compact, too"


def test_a_file_that_is_emptied_loses_its_records_although_another_is_empty(tmp_path: Path, capsys) -> None:
    store = str(tmp_path / "store")
    write_day(tmp_path, DAYS[0], [], part="1")
    write_day(tmp_path, DAYS[0], [("u1", f"{DAYS[0]} 01:00:00", "kept")], part="2")
    bad = write_day(tmp_path, DAYS[0], [("u1", f"{DAYS[0]} 02:00:00", "wrong"), ("u1", "never", "x")], part="7")
    ingest(ingest_config(tmp_path, store, **day(DAYS[0])))
    write_day(tmp_path, DAYS[0], [], part="7")
    ingest(ingest_config(tmp_path, store, **day(DAYS[0])))
    assert f"{bad} has other content than before; its records are replaced" in capsys.readouterr().out
    assert events(store) == [("u1", f"{DAYS[0]} 01:00:00", "kept")]
    assert held(store, "rejected").num_rows == 0
    ingest(ingest_config(tmp_path, store, **day(DAYS[0])))
    assert "the store has all of it (manifest 2)" in capsys.readouterr().out


def test_a_file_that_takes_the_name_of_another_keeps_its_records(tmp_path: Path) -> None:
    """Each day the producer writes `b_current` anew and names what it was before `a_previous`."""
    store, written = str(tmp_path / "store"), {}
    for number, name in enumerate(DAYS):
        written[name] = a_day(name)
        write_day(tmp_path, "all", written[name], part="b_current")
        if number:
            write_day(tmp_path, "all", written[DAYS[number - 1]], part="a_previous")
        ingest(ingest_config(tmp_path, store))
    assert events(store) == sorted(written[DAYS[1]] + written[DAYS[2]])


def test_good_facts_that_come_back_are_the_newest_again(tmp_path: Path) -> None:
    """The facts of the third day are those of the first one, after wrong ones."""
    store = str(tmp_path / "store")
    facts = {"files": f"{tmp_path}/facts-{{day}}.csv", "user": "uid"}
    for day_, age in zip(DAYS, (30, 99, 30), strict=True):
        (tmp_path / f"facts-{day_}.csv").write_text(f"uid,age\nu1,{age}\n")
        ingest(ingest_config(tmp_path, store, tables={"facts": facts}, **day(day_)))
    ingest(ingest_config(tmp_path, store, tables={"facts": facts}))
    rows = held(store, "facts")
    assert sorted(zip(rows["_store_day"].to_pylist(), rows["age"].to_pylist(), strict=True)) == [
        (DAYS[0], "30"), (DAYS[1], "99"), (DAYS[2], "30")
    ]  # fmt: skip


def test_bad_records_are_kept_with_their_place_and_replaced_with_their_file(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    bad = write_day(tmp_path, DAYS[0], [("u1", "never", "x"), ("", "2025-03-01", "y"), ("u2", "2025-03-01", "z")])
    ingest(ingest_config(tmp_path, store, max_bad_share=0.7))
    found = held(store, "rejected").select(["table", "user_id", "source", "reason", "detail"]).to_pylist()
    assert sorted(tuple(row.values()) for row in found if row["reason"] == "bad_time") == [
        ("clicks", "u1", f"{bad}:2", "bad_time", "ts = never")
    ]
    assert {row["source"] for row in found} == {f"{bad}:2", f"{bad}:3"}
    write_day(tmp_path, DAYS[0], [("u1", "2025-03-01", "x")])
    ingest(ingest_config(tmp_path, store))
    assert events(store) == [("u1", "2025-03-01 00:00:00", "x")]
    assert held(store, "rejected").num_rows == 0


def test_too_many_bad_records_change_nothing(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    write_day(tmp_path, DAYS[0], [("u1", "never", "x"), ("u2", "2025-03-01", "z")])
    with pytest.raises(InputError, match=r"tables\.clicks: 1 of 2 records cannot be used, 1 of them for 'bad_time'"):
        ingest(ingest_config(tmp_path, store, max_bad_share=0.1))
    assert read_state(store).sequence == 0


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize("step", ["before the commit", "after the commit", "before the manifest"])
def test_what_a_killed_run_leaves_is_not_seen_and_does_not_stay(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = str(tmp_path / "store")
    ingest(ingest_config(place, store, **day(DAYS[0])))
    write_day(place, DAYS[0], a_day(DAYS[0], seed=1))
    commit = seal.commit

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if step == "before the manifest":
            patch.setattr(seal, "seal", killed)
        else:
            patch.setattr(
                seal, "commit", lambda *rest: killed() if step.startswith("before") else killed(commit(*rest))
            )
        with pytest.raises(Killed):
            ingest(ingest_config(place, store))
    assert events(store) == a_day(DAYS[0]), "nothing of it is seen"
    write_day(place, DAYS[0], a_day(DAYS[0]))
    ingest(ingest_config(place, store))
    assert events(store) == everything()
    assert run_command(["vacuum", store, "--retention-hours", "0"]) == 0
    assert events(store) == everything(), "vacuum removes nothing that the manifest needs"


def test_of_two_runs_at_once_one_wins_and_nothing_is_lost_or_doubled(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second run does all its work between the first one's commits and its manifest, as if there were no lock."""
    store = str(tmp_path / "store")
    monkeypatch.setattr(job, "held", lambda *_: nullcontext())
    manifest_of, first = seal.seal, []

    def slow(*arguments):
        if not first:
            first.append(True)
            ingest(ingest_config(place, store))
        return manifest_of(*arguments)

    monkeypatch.setattr(seal, "seal", slow)
    with pytest.raises(NotNow, match="another run has changed the store just now"):
        ingest(ingest_config(place, store, **day(DAYS[0])))
    assert events(store) == everything()
    ingest(ingest_config(place, store, **day(DAYS[0])))
    assert events(store) == everything()


def test_a_lock_says_who_is_at_it(place: Path, tmp_path: Path, capsys) -> None:
    config = tmp_path / "ingest.yaml"
    values = ingest_config(place, str(tmp_path / "store")).model_dump(mode="json", exclude_defaults=True)
    config.write_text(yaml.safe_dump(values))
    assert run(JOBS["ingest"], ["--config", str(config)]) == 0
    with job.held(job.lock_file(str(tmp_path / "store")), "a change of this store"):
        assert run(JOBS["ingest"], ["--config", str(config), "--set", "day=2025-03-01"]) == 4
    assert "not now: " in capsys.readouterr().err


def test_a_day_that_is_not_complete_waits(place: Path, tmp_path: Path) -> None:
    store, marker = str(tmp_path / "store"), tmp_path / "ready" / f"{DAYS[0]}.json"
    config = ingest_config(place, store, **day(DAYS[0]), ready=f"{tmp_path}/ready/{{day}}.json")
    marker.parent.mkdir()
    with pytest.raises(NotNow, match="not there yet, so the day is not complete"):
        ingest(config)
    marker.write_text(json.dumps({"rows": {f"clicks/day={DAYS[0]}/b.csv": 1}}))
    with pytest.raises(NotNow, match=r"it lists clicks/day=2025-03-01/b\.csv, which is not there yet"):
        ingest(config)
    for listed in (f"day={DAYS[0]}/b.csv", f"{place}/day={DAYS[0]}/b.csv"):
        marker.write_text(json.dumps({"rows": {f"day={DAYS[0]}/a.csv": 20, listed: 1}}))
        with pytest.raises(NotNow, match=f"it lists {listed}, which is not there yet"):
            ingest(config)
    marker.write_text(json.dumps({"rows": {f"day={DAYS[0]}/a.csv": 21}}))
    with pytest.raises(NotNow, match="should have 21 rows, and has 20 so far"):
        ingest(config)
    assert read_state(store).sequence == 0
    marker.write_text("")
    ingest(config)
    assert read_state(store).days == (DAYS[0],)


def test_a_marker_counts_records_that_hold_many_events(tmp_path: Path) -> None:
    """Four records: two events, none, lists of two lengths, and two events of nobody."""
    store, file = str(tmp_path / "store"), tmp_path / "in" / "a.parquet"
    file.parent.mkdir()
    times = [[dt.datetime(2025, 3, 1, hour, tzinfo=dt.UTC) for hour in range(n)] for n in (2, 0, 2, 2)]
    columns = {"uid": ["u1", "u2", "u3", None], "ts": times, "item": [["a", "b"], [], ["c"], ["d", "e"]]}
    pq.write_table(pa.table(columns), file)
    clicks = {"files": f"{tmp_path}/in/*.parquet", "user": "uid", "time": "ts", "nested": ["ts", "item"]}
    marker = tmp_path / "ready.json"
    changed = {"tables": {"clicks": clicks}, "ready": str(marker), "max_bad_share": 0.7, **day(DAYS[0])}
    marker.write_text(json.dumps({"rows": {"in/a.parquet": 5}}))
    with pytest.raises(NotNow, match=r"should have 5 rows, and has 4 so far"):
        ingest(ingest_config(tmp_path, store, **changed))
    marker.write_text(json.dumps({"rows": {"in/a.parquet": 4}}))
    with pytest.raises(InputError, match=r"3 of 5 records cannot be used, 2 of them for 'missing_user'"):
        ingest(ingest_config(tmp_path, store, **{**changed, "max_bad_share": 0.5}))
    ingest(ingest_config(tmp_path, store, **changed))
    assert [item for _, _, item in events(store)] == ["a", "b"]
    [entry] = read_state(store).files.values()
    assert (entry.rows, entry.rejected) == (2, {"bad_line": 1, "missing_user": 2})
    places = sorted(held(store, "rejected")["source"].to_pylist())
    assert places == [f"{file}, row 3", f"{file}, row 4", f"{file}, row 4"]


def test_a_file_that_changes_while_it_is_read_is_not_taken(place: Path, tmp_path: Path, capsys) -> None:
    """The day's marker came too early: the producer writes a file again between the look at it and its rows."""
    store, config = str(tmp_path / "store"), tmp_path / "ingest.yaml"
    values = ingest_config(place, store, buckets=1).model_dump(mode="json", exclude_defaults=True)
    config.write_text(yaml.safe_dump(values))
    plan = job.plan

    def late(*arguments):
        write_day(place, DAYS[0], a_day(DAYS[0], seed=2))
        return plan(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "plan", late)
        assert run(JOBS["ingest"], ["--config", str(config)]) == 4
    told = capsys.readouterr().err
    assert told.startswith("not now: ")
    assert told.endswith("a.csv changed while it was read; start again when it is whole\n")
    assert read_state(store).sequence == 0


def test_a_user_with_absurdly_many_events_is_cut_and_said(tmp_path: Path, capsys) -> None:
    store = str(tmp_path / "store")
    for part in range(3):
        times = [f"{DAYS[0]} {hour:02}:0{part}:00" for hour in range(24)]
        write_day(tmp_path, DAYS[0], [("unknown", time, "x") for time in times], part=str(part))
    write_day(tmp_path, DAYS[0], [("u1", f"{DAYS[0]} 10:00:00", "y")], part="other")
    ingest(ingest_config(tmp_path, store, max_events_per_user=30))
    assert "clicks: 42 records beyond max_events_per_user were left out" in capsys.readouterr().out
    kept = [time for user, time, _ in events(store) if user == "unknown"]
    every = sorted(f"{DAYS[0]} {hour:02}:0{part}:00" for hour in range(24) for part in range(3))
    assert kept == every[-30:], "the newest ones"
    assert set(held(store, "rejected")["reason"].to_pylist()) == {"too_many_events"}


def test_columns_are_those_of_the_first_run(place: Path, tmp_path: Path, capsys) -> None:
    store = str(tmp_path / "store")
    ingest(ingest_config(place, store, **day(DAYS[0])))
    more = place / f"day={DAYS[1]}" / "a.csv"
    more.write_text("uid,ts,item,new\nu1,2025-03-02,x,1\n")
    ingest(ingest_config(place, store, **day(DAYS[1])))
    assert "columns that the store's table does not have are left out: new" in capsys.readouterr().out
    less = place / f"day={DAYS[2]}" / "a.csv"
    less.write_text("uid,ts\nu1,2025-03-02\n")
    with pytest.raises(InputError, match=r"the store's table has column 'item', but .* has no column 'item'"):
        ingest(ingest_config(place, store, **day(DAYS[2])))


def test_a_column_may_not_change_its_type(tmp_path: Path) -> None:
    store, time = str(tmp_path / "store"), pa.array([dt.datetime(2025, 3, 1, tzinfo=dt.UTC)])
    tables = {"clicks": {"files": f"{tmp_path}/day={{day}}/*.parquet", "user": "uid", "time": "ts"}}
    for day_, n in ((DAYS[0], pa.array([1])), (DAYS[1], pa.array([0.5]))):
        (tmp_path / f"day={day_}").mkdir()
        pq.write_table(pa.table({"uid": ["u"], "ts": time, "n": n}), tmp_path / f"day={day_}" / "a.parquet")
    ingest(ingest_config(tmp_path, store, tables=tables, **day(DAYS[0])))
    with pytest.raises(InputError, match="column 'n' is BIGINT in the store and DOUBLE in"):
        ingest(ingest_config(tmp_path, store, tables=tables, **day(DAYS[1])))


def test_compact_expire_and_history_keep_every_event_that_is_needed(place: Path, tmp_path: Path, capsys) -> None:
    store = str(tmp_path / "store")
    ingest(ingest_config(place, store, **day(DAYS[0]), last_day=dt.date(2025, 3, 3)))
    files = len(list(Path(store).glob("tables/clicks/*/*.parquet")))
    assert changes.expire(store, dt.date(2025, 3, 2)) is not None
    assert events(store) == sorted(a_day(DAYS[1]) + a_day(DAYS[2]))
    assert changes.expire(store, dt.date(2025, 3, 2)) is None
    ingest(ingest_config(place, store, **day(DAYS[0])))
    assert events(store) == sorted(a_day(DAYS[1]) + a_day(DAYS[2])), "what expired does not come back"
    assert changes.compact(store, 3660) is not None
    assert events(store) == sorted(a_day(DAYS[1]) + a_day(DAYS[2]))
    assert changes.compact(store, 3660) is None
    assert run_command(["vacuum", store, "--retention-hours", "0"]) == 0
    left = len(list(Path(store).glob("tables/clicks/*/*.parquet")))
    assert left <= 4 < files
    assert events(store) == sorted(a_day(DAYS[1]) + a_day(DAYS[2]))
    assert run_command(["history", store]) == 0
    assert capsys.readouterr().out.splitlines()[-3].split()[:3] == ["3", "ingest", DAYS[2]]


def in_period(store: str, first: str, end: str) -> dict[str, TableRows]:
    """Table -> its rows of all buckets, good and bad, that a night with this period finds."""
    ends = (dt.datetime.fromisoformat(f"{day}T00:00:00+00:00") for day in (first, end))
    source = EventStore(store, None, {}, {}, period=(next(ends), next(ends)))
    found: dict[str, TableRows] = {}
    for bucket in range(source.shards(1)):
        with duckdb.connect() as connection:
            connection.execute(CREATE_REJECTED)
            shard = source.of_shard(bucket)
            shard.load(connection, {name: {} for name in source.tables()}, Extract())
            for table, rows in count_rows(Database(connection, shard, {}), 1.0).items():
                before = found.get(table, TableRows(0, 0, {}, {}))
                found[table] = TableRows(before.good + rows.good, before.bad + rows.bad, {}, {})
    return found


def half_years(place: Path, store: str) -> None:
    """Half a year of days with 8 good records and a bad one each, and facts about three users and a bad one."""
    for number, day_ in enumerate(HALF_YEAR):
        bad = [(f"u{number}", "never", "x")]
        write_day(place / "clicks", day_, [(f"u{k}", f"{day_} 01:00:00", f"item {number}") for k in range(8)] + bad)
    (place / "facts.csv").write_text("uid,age\nu1,1\nu2,2\nu3,3\n,4\n")
    clicks = {"files": f"{place}/clicks/day={{day}}/*.csv", "user": "uid", "time": "ts"}
    ingest(ingest_config(place, store, tables={"facts": {"files": f"{place}/facts.csv", "user": "uid"}}))
    for day_ in HALF_YEAR:
        ingest(ingest_config(place, store, tables={"clicks": clicks}, **day(day_)))


def test_a_night_counts_rejected_records_of_the_files_that_it_reads(tmp_path: Path) -> None:
    """Whatever the store has rejected since it began; compact and expire change nothing about it."""
    store = str(tmp_path / "store")
    half_years(tmp_path, store)
    last_two = {"clicks": (16, 2), "facts": (3, 1)}
    for change in (lambda: None, lambda: changes.compact(store, 7), lambda: changes.expire(store, dt.date(2025, 5, 1))):
        change()
        found = in_period(store, "2025-05-20", "2025-06-10")
        assert {name: (rows.good, rows.bad) for name, rows in found.items()} == last_two
    everything_ = in_period(store, "2025-01-01", "2026-01-01")
    assert {name: (rows.good, rows.bad) for name, rows in everything_.items()} == last_two, "the others have expired"


def test_expire_drops_rejected_records_with_their_files(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    half_years(tmp_path, store)
    assert held(store, "rejected").num_rows == 1 + len(HALF_YEAR)
    changes.expire(store, dt.date(2025, 5, 1))
    left = held(store, "rejected").to_pylist()
    assert sorted((row["table"], row["user_id"]) for row in left) == [
        ("clicks", "u4"),
        ("clicks", "u5"),
        ("facts", None),
    ]
    assert {row["_store_bucket"] for row in left if row["user_id"] is None} == {0}, "of nobody, and never expired"
    assert read_state(store).tables["rejected"].rows == len(left)


def test_forgotten_users_stay_forgotten(place: Path, tmp_path: Path, capsys) -> None:
    store, key, users = str(tmp_path / "store"), tmp_path / "key", tmp_path / "users.txt"
    key.write_text(KEY)
    users.write_text("u1\nu3\nnobody\n")
    write_day(place, DAYS[0], [*a_day(DAYS[0]), ("u1", "never", "x")])
    ingest(ingest_config(place, store, **day(DAYS[0])))
    assert run_command(["forget", store, "--users-file", str(users), "--key-file", str(key)]) == 0
    kept = [event for event in everything() if event[0] not in ("u1", "u3")]
    assert events(store) == [event for event in kept if event[1].startswith(DAYS[0])]
    assert held(store, "rejected").num_rows == 0
    with pytest.raises(InputError, match="key_file: users of this store were forgotten with a key, found no key"):
        ingest(ingest_config(place, store))
    ingest(ingest_config(place, store, key_file=str(key)))
    assert events(store) == kept
    assert "records of forgotten users were not taken" in capsys.readouterr().out
    written = "".join(file.read_text() for file in Path(store).glob("manifests/*.json"))
    assert "u1" not in written.replace("u1 ", "")
    assert len(read_manifests(store)[1].suppressed) == 3


def test_the_store_on_s3(place: Path) -> None:
    store = f"{BUCKET}/store"
    ingest(ingest_config(place, store, **day(DAYS[0]), last_day=dt.date(2025, 3, 3)))
    assert events(store) == everything()
    assert not storage.write_new(f"{store}/manifests/00000003.json", b"{}"), "a manifest is written once"
    assert changes.compact(store, 7) is not None
    assert events(store) == everything()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"columns": {"click": ["item"]}}, r"columns: there is no table 'click'; `tables` has clicks"),
        ({"last_day": dt.date(2025, 3, 1)}, r"last_day: give `day`, too"),
        ({"ready": "ready/{day}"}, r"ready: only with `day`"),
        ({"pseudonyms": True}, r"pseudonyms: give key_file, a file with a secret key"),
        (
            {
                "tables": {"clicks": {"files": "u=*/a.csv", "user": "u", "partitions": ["u"]}},
                "pseudonyms": True,
                "key_file": "key",
            },
            r"pseudonyms: folders of tables\.clicks name users",
        ),
        ({"tables": {"rejected": {"files": "x", "user": "u"}}}, r"'rejected' is a table of prepare itself"),
    ],
)
def test_mistakes_in_the_config(tmp_path: Path, changes: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ingest_config(tmp_path, str(tmp_path / "store"), **changes)


def test_only_the_day_is_filled_into_patterns() -> None:
    first = dt.date(2025, 1, 2)
    assert job._of_day("a{b}/{day}/{day:%Y%m%d}.csv", first) == "a{b}/2025-01-02/20250102.csv"
    assert job._of_day("a{b}/{day}/{day:%Y%m%d}.csv", None) == "a{b}/*/*.csv"


def test_a_marker_with_strange_rows(place: Path, tmp_path: Path) -> None:
    (tmp_path / "ready").write_text('{"rows": {"a.csv": "many"}}')
    with pytest.raises(InputError, match="`rows` must say of each file how many rows it has"):
        ingest(ingest_config(place, str(tmp_path / "store"), **day(DAYS[0]), ready=str(tmp_path / "ready")))


def test_declared_types_bring_files_together(tmp_path: Path) -> None:
    store, time = str(tmp_path / "store"), pa.array([dt.datetime(2025, 3, 1, tzinfo=dt.UTC)])
    clicks = {"files": f"{tmp_path}/*.parquet", "user": "uid", "time": "ts", "types": {"n": "float8"}}
    for name, n in (("a", pa.array([1])), ("b", pa.array(["2.5"]))):
        pq.write_table(pa.table({"uid": [name], "ts": time, "n": n}), tmp_path / f"{name}.parquet")
    ingest(ingest_config(tmp_path, store, tables={"clicks": clicks}))
    assert sorted(held(store)["n"].to_pylist()) == [1.0, 2.5]


@pytest.mark.parametrize("words", [["compact", "x", "--days", "0"], ["vacuum", "x", "--retention-hours", "-1"]])
def test_commands_refuse_numbers_that_mean_nothing(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(words)
    assert stop.value.code == 2
    assert "or more, found" in capsys.readouterr().err


def written(place: Path) -> bytes:
    """Everything that lies below a place, unpacked: names of files, and all columns of Parquet files as texts."""
    found = []
    for file in sorted(place.rglob("*")):
        found.append(str(file).encode())
        if file.suffix == ".parquet":
            found.append(repr(pq.ParquetFile(file).read().to_pylist()).encode())
        elif file.is_file():
            found.append(file.read_bytes())
    return b"\n".join(found)


def test_a_store_with_pseudonyms_holds_no_id(tmp_path: Path) -> None:
    """The same records under other names: of good and bad records, of values in the wrong column, after a forget."""
    key, users, store = tmp_path / "key", tmp_path / "users.txt", tmp_path / "store"
    key.write_text(KEY)
    people = {name: pseudonym(name, KEY.encode()) for name in ("ann-smith", "bob-jones", "cat-brown")}
    day_ = [(name, f"{DAYS[0]} 0{hour}:00:00", f"item {hour}") for hour, name in enumerate(people)]
    swapped = [("x1", "ann-smith", "a time was expected"), ("bob-jones", "never", "x")]
    write_day(tmp_path / "in", DAYS[0], [*day_, *swapped])
    config = ingest_config(tmp_path / "in", str(store), pseudonyms=True, key_file=str(key), **day(DAYS[0]))
    ingest(config)
    assert events(str(store)) == sorted((people[name], time, item) for name, time, item in day_)
    rejected = sorted((row["user_id"], row["detail"]) for row in held(str(store), "rejected").to_pylist())
    assert rejected == sorted([(pseudonym("x1", KEY.encode()), "ts"), (people["bob-jones"], "ts")])
    users.write_text("bob-jones\n")
    assert run_command(["forget", str(store), "--users-file", str(users), "--key-file", str(key)]) == 0
    write_day(tmp_path / "in", DAYS[1], [("bob-jones", f"{DAYS[1]} 01:00:00", "y"), ("dan-green", DAYS[1], "z")])
    ingest(ingest_config(tmp_path / "in", str(store), pseudonyms=True, key_file=str(key), **day(DAYS[1])))
    names = {people["ann-smith"], people["cat-brown"], pseudonym("dan-green", KEY.encode())}
    assert {user for user, _, _ in events(str(store))} == names
    assert held(str(store), "rejected").num_rows == 1
    everything_ = written(store)
    assert all(name.encode() not in everything_ for name in (*people, "dan-green", KEY))
    assert people["ann-smith"].encode() in everything_, "the search finds what is there"


def test_a_store_keeps_its_names(place: Path, tmp_path: Path) -> None:
    plain, named = str(tmp_path / "plain"), str(tmp_path / "named")
    for name in ("key", "other"):
        (tmp_path / name).write_text(name * 8)
    hashed = {"pseudonyms": True, "key_file": str(tmp_path / "key")}
    ingest(ingest_config(place, plain))
    ingest(ingest_config(place, named, **hashed))
    with pytest.raises(InputError, match=r"pseudonyms: the store at \S+ names users as the source does, found true"):
        ingest(ingest_config(place, plain, **hashed))
    with pytest.raises(InputError, match=r"pseudonyms: .* found false; set pseudonyms to true, with the key"):
        ingest(ingest_config(place, named, key_file=str(tmp_path / "key")))
    with pytest.raises(InputError, match=r"pseudonyms: .* by pseudonyms of the key \w{16}, found true with the key"):
        ingest(ingest_config(place, named, pseudonyms=True, key_file=str(tmp_path / "other")))
    with pytest.raises(InputError, match=r"--key-file: \S+ names users by pseudonyms of the key"):
        changes.forget(named, ["u1"], str(tmp_path / "other"))
    layout = json.loads((tmp_path / "named" / "store.json").read_text())
    assert layout["format"] == 2, "versions that know no pseudonyms refuse it"
    assert json.loads((tmp_path / "plain" / "store.json").read_text())["format"] == 1

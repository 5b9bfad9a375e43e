"""The list of forgotten users: who is on it, which key it has, and that rollback and forget honour it."""

import datetime as dt
import json
import multiprocessing
import os
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.tables import maintenance, open_table, tagging
from ray_ggsm.tables.join import LIST, WITHOUT
from ray_ggsm.tables.maintenance import forget, rollback, vacuum
from ray_ggsm.tables.metadata import ForgottenRows
from ray_ggsm.tables.publish import LostRace
from ray_ggsm.tables.rewrite import forgotten_in
from ray_ggsm.tables.suppression import DIRECTORY, read_suppressed, suppress
from tests.helpers.tables import BUCKETS, put, rows

KEY, OTHER = b"k" * 32, b"x" * 32


def users(location: str, version: int | str | None = None) -> set[str]:
    return set(open_table(location).read(version=version, columns=["user_id"])["user_id"].to_pylist())


def named(count: int) -> set[str]:
    return {f"u{i}" for i in range(count)}


def hashed(name: str, key: bytes = KEY) -> str:
    return blake2b(name.encode(), key=key, digest_size=16).hexdigest()


def test_no_list_suppresses_nobody(location):
    found = read_suppressed(location)
    assert (found.version, found.key_id, found.hashes) == (0, None, frozenset())
    assert found.gone(pa.chunked_array([["ann", None]]), None).to_pylist() == [False, False]


def test_a_list_holds_keyed_hashes_and_grows(location):
    assert suppress(location, ["ann", "bob", "ann"], KEY).version == 1
    assert suppress(location, ["bob"], KEY).version == 1, "nobody is new"
    assert suppress(location, ["bob", "cat"], KEY) == read_suppressed(location)
    found = read_suppressed(location)
    assert (found.version, found.hashes) == (2, frozenset(map(hashed, ("ann", "bob", "cat"))))
    written = [json.loads(storage.read_text(file)) for file in storage.list_files(f"{location}/{DIRECTORY}")]
    assert [each["hashes"] for each in written] == [sorted(map(hashed, ("ann", "bob"))), [hashed("cat")]]
    assert {each["key_id"] for each in written} == {found.key_id}


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=9), st.data())
def test_who_is_gone(tmp_path_factory, names, data):
    """Named by the id, or in a table with pseudonyms by the pseudonym; in one chunk or several, also large ones."""
    location = str(tmp_path_factory.mktemp("t"))
    listed = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
    found = suppress(location, listed, KEY)
    asked = data.draw(st.lists(st.sampled_from([*sorted(names), None])))
    cut, kind = data.draw(st.integers(0, len(asked))), data.draw(st.sampled_from([pa.string(), pa.large_string()]))
    gone = found.gone(pa.chunked_array([asked[:cut], asked[cut:]], kind), KEY)
    assert gone.to_pylist() == [user in listed for user in asked]
    pseudonyms = pa.chunked_array([[None if user is None else hashed(user) for user in asked]], pa.string())
    assert found.gone(pseudonyms, KEY).to_pylist() == gone.to_pylist()


def test_a_list_has_one_key(tmp_path):
    location = str(tmp_path)
    suppress(location, ["ann"], KEY)
    with pytest.raises(InputError, match="forgotten with a key, found another key"):
        suppress(location, ["bob"], OTHER)
    for key, found in ((None, "no key"), (OTHER, "another key")):
        with pytest.raises(InputError, match=f"forgotten with a key, found {found}; give the file"):
            read_suppressed(location).gone(pa.chunked_array([["ann"]]), key)


def test_a_damaged_list_is_no_shorter_list(tmp_path):
    location = str(tmp_path)
    for name in "abc":
        suppress(location, [name], KEY)
    file = tmp_path / DIRECTORY / "00000002.json"
    file.write_text("{}")
    with pytest.raises(InputError, match=r"00000002\.json: this file cannot be read"):
        read_suppressed(location)
    file.unlink()
    with pytest.raises(InputError, match=r"00000002\.json: this file is missing; restore it"):
        read_suppressed(location)


def test_forget_writes_the_list_before_it_commits(tmp_path, monkeypatch):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(maintenance, "publish", crash)
        with pytest.raises(KeyboardInterrupt):
            forget(location, ["u3"], KEY)
    assert read_suppressed(location).hashes == {hashed("u3")}
    assert "u3" in users(location)
    assert forget(location, ["u3"], KEY).users == 1
    assert users(location) == named(20) - {"u3"}
    with pytest.raises(InputError, match="found another key"):
        forget(location, ["u4"], OTHER)
    assert "u4" in users(location)


def test_who_is_not_there_is_on_the_list_and_ends_builds_that_have_not_read_it(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    done = forget(location, ["u25"], KEY)
    assert (done.version, done.users, done.absent) == (1, 0, ("u25",))
    assert open_table(location).files(1) == open_table(location).files(0)
    with pytest.raises(LostRace):
        put(location, rows(30), "r1", expected_version=0)
    assert forget(location, ["u25"], KEY).version == 1, "the version honours the list already"


def test_rollback_leaves_out_whom_forget_has_taken_out(location):
    put(location, rows(60), "r0")
    put(location, rows(50, run="r1", seed=1), "r1")
    forget(location, ["u3", "u14", "u58"], KEY)
    with pytest.raises(InputError, match="found no key"):
        rollback(location, 0)
    with pytest.raises(InputError, match="found another key"):
        rollback(location, 0, key=OTHER)
    assert rollback(location, 0, key=KEY) == 3
    table = open_table(location)
    assert users(location) == named(60) - {"u3", "u14", "u58"}
    assert table.read(user_ids=["u9"]).equals(table.read(user_ids=["u9"], version=0))
    metadata = table.metadata()
    assert (metadata.operation, metadata.rolled_back_to, metadata.rows) == ("rollback", 0, 57)
    assert metadata.forgotten == ForgottenRows(users=3, rows=3)
    assert table.verify(deep=True) == []
    shared = set(table.files()) & set(table.files(0))
    assert len(shared) == BUCKETS - len({file.split("bucket=")[1] for file in set(table.files()) - shared})
    assert rollback(location, 2) == 4, "nobody was forgotten since, so it needs no key"
    assert users(location) == named(50) - {"u3", "u14"}
    assert forget(location, ["u3", "u14", "u58"], KEY).version == 4


def test_rollback_behind_a_forget_of_earlier_code_is_refused(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(19), "f", metadata={"operation": "forget", "forgotten": {"users": 1, "rows": 1}})
    put(location, rows(18), "r2")
    with pytest.raises(InputError, match="version 1 has forgotten users who are still in version 0"):
        rollback(location, 0, key=KEY)
    assert rollback(location, 1) == 3


def test_rollback_to_a_version_whose_files_are_gone(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(21), "r1")
    vacuum(location, 0, dry_run=False)
    with pytest.raises(InputError, match="cannot roll back to version 0; its files are gone"):
        rollback(location, 0)


def test_a_commit_in_between(tmp_path, monkeypatch):
    """Another publisher writes the bucket again while `forget` does: its rows stay, and the users leave."""
    location = str(tmp_path / "users")
    put(location, rows(30), "r0")
    publish = maintenance.publish

    def late(*new):
        monkeypatch.undo()
        put(location, rows(40, run="r1", seed=1), "r1")
        return publish(*new)

    monkeypatch.setattr(maintenance, "publish", late)
    done = forget(location, ["u3", "u35"], KEY)
    assert (done.version, done.users, done.absent) == (2, 2, ())
    assert users(location) == named(40) - {"u3", "u35"}
    assert set(open_table(location).read(columns=["run"])["run"].to_pylist()) == {"r1"}


def test_somebody_else_is_always_faster(tmp_path, monkeypatch):
    location = str(tmp_path / "users")
    put(location, rows(30), "r0")
    monkeypatch.setattr(maintenance, "ATTEMPTS", 3)
    tries = []

    def lost(*_):
        tries.append(1)
        raise LostRace("moved on; start again")

    monkeypatch.setattr(maintenance, "publish", lost)
    with pytest.raises(NotNow, match="start again"):
        forget(location, ["u3"], KEY)
    assert len(tries) == 3


def test_two_threads_forget_at_once(location):
    put(location, rows(60), "r0")
    start, done = threading.Barrier(3), []

    def go(i: int) -> None:
        start.wait()
        done.append(forget(location, [f"u{i}", f"u{i + 30}"], KEY))

    threads = [threading.Thread(target=go, args=(i,)) for i in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    gone = {f"u{i}" for i in (0, 1, 2, 30, 31, 32)}
    assert len(done) == 3
    assert users(location) == named(60) - gone
    assert read_suppressed(location).hashes == set(map(hashed, gone))
    assert open_table(location).verify(deep=True) == []
    rollback(location, 0, key=KEY)
    assert users(location) == named(60) - gone


_together: list[threading.Barrier] = []
"""In the processes of the pool."""


def _meet_at(start: threading.Barrier) -> None:
    _together.append(start)


def _forget(location: str, user: str) -> int:
    _together[0].wait()
    return forget(location, [user], KEY).users


def test_two_processes_forget_at_once(tmp_path):
    location, context = str(tmp_path / "users"), multiprocessing.get_context("spawn")
    put(location, rows(60), "r0")
    with ProcessPoolExecutor(2, context, _meet_at, (context.Barrier(2),)) as pool:
        assert list(pool.map(_forget, [location] * 2, ["u3", "u4"])) == [1, 1]
    assert users(location) == named(60) - {"u3", "u4"}


def test_an_uncommitted_forget_is_not_counted_as_honoured(tmp_path):
    """Ann's forget has put her on the list and was killed; Bob's must not make a rollback think that she is out."""
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    suppress(location, ["u1"], KEY)
    forget(location, ["u2"], KEY)
    assert users(location) == named(20) - {"u2"}
    put(location, rows(9), "r2", metadata={"suppressed": 2})
    with pytest.raises(InputError, match="found no key"):
        rollback(location, 1)
    rollback(location, 1, key=KEY)
    assert users(location) == named(20) - {"u1", "u2"}


def test_vacuum_never_removes_the_list(location):
    put(location, rows(20), "r0")
    forget(location, ["u3"], KEY)
    vacuum(location, 0, dry_run=False)
    assert read_suppressed(location).version == 1
    assert users(location) == named(20) - {"u3"}


def test_vacuum_keeps_what_a_checkpoint_has_forgotten(tmp_path):
    """A checkpoint drops the record of files that left the table longer ago than a time of its own."""
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    DeltaTable(location).alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 0 hours"})
    put(location, rows(21), "r1")
    for file in open_table(location).files(0):
        os.utime(file, (time.time() - 48 * 3600,) * 2)
    time.sleep(0.01)
    DeltaTable(location).create_checkpoint()
    assert vacuum(location, 24, dry_run=True) == [], "they were in the table until just now"
    assert len(users(location, 0)) == 20
    assert len(vacuum(location, 0, dry_run=True)) == BUCKETS


def test_vacuum_removes_old_reports_and_dead_letters(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    old = ["runs/a/report.json", "runs/a/report.html", "staging/a/dead_letters/of-9/00000000-invalid.parquet"]
    for name in (*old, "runs/b/report.json"):
        storage.write_text(f"{location}/{name}", "here")
    for name in old:
        os.utime(f"{location}/{name}", (0, 0))
    assert vacuum(location, 24, dry_run=False) == sorted(old)
    assert storage.exists(f"{location}/runs/b/report.json")


def test_a_copy_of_the_table_keeps_the_list(tmp_path):
    location, copy = str(tmp_path / "users"), str(tmp_path / "copy")
    put(location, rows(20), "r0")
    forget(location, ["u3"], KEY)
    shutil.copytree(location, copy)
    rollback(copy, 0, key=KEY)
    assert users(copy) == named(20) - {"u3"}


@pytest.fixture
def shrunk(location) -> str:
    """u0 to u39, then u0 to u19; u3 (in both) and u33 (only in the first version) are forgotten."""
    put(location, rows(40), "r0")
    put(location, rows(20, seed=1, run="r1"), "r1")
    forget(location, ["u3", "u33"], KEY)
    return location


def test_readers_with_the_key_leave_out_the_forgotten(shrunk):
    open_, with_key = open_table(shrunk), open_table(shrunk, KEY)
    assert set(open_.read(version=0)["user_id"].to_pylist()) == named(40)
    assert set(with_key.read(version=0)["user_id"].to_pylist()) == named(40) - {"u3", "u33"}
    assert with_key.read(version=0, columns=["events"]).schema.names == ["events"]
    assert len(with_key.read(version=0, columns=["events"])) == 38
    assert with_key.read(version=0, user_ids=["u33", "u34"])["user_id"].to_pylist() == ["u34"]
    assert set(with_key.matrix(version=1)[0].tolist()) == named(20) - {"u3"}
    assert with_key.read().equals(open_.read())
    with pytest.raises(InputError, match="found another key"):
        open_table(shrunk, OTHER)


def test_pseudonyms_on_the_list_are_left_out(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows([hashed("ann"), hashed("bob")]), "r0")
    put(location, rows(["bystander"]), "r1")
    forget(location, ["ann"], KEY)
    assert open_table(location, KEY).read(version=0)["user_id"].to_pylist() == [hashed("bob")]


def test_joins_and_the_list(shrunk):
    table, asked = open_table(shrunk), pa.table({"user_id": ["u3", "u33", "u34"], "time": [dt.date(2024, 3, 2)] * 3})
    joined = {key: open_table(shrunk, key).join(asked) for key in (None, KEY)}
    assert joined[None]["version"].to_pylist() == [None, 0, 0]
    assert joined[KEY]["version"].to_pylist() == [None, None, 0]
    assert joined[KEY]["embedding"].null_count == 2
    first = table.history()[-1].timestamp
    assert open_table(shrunk, KEY).join(asked, known_at=first)["version"].to_pylist() == [None, None, 0]
    said = {key: result.schema.metadata[LIST.encode()] for key, result in joined.items()}
    assert said == {None: b"no key", KEY: b"applied"}
    assert joined[KEY].schema.metadata[WITHOUT.encode()] == b"2"
    batches = list(open_table(shrunk, KEY).join_batches(asked))
    assert {batch.schema.metadata[LIST.encode()] for batch in batches} == {b"applied"}
    assert sum(batch["version"].null_count for batch in batches) == 2


def test_a_join_does_not_refuse_for_who_is_left_out_anyway(shrunk):
    """The files of version 0 are gone: nobody can answer for u34, but u33 has no answer in any case."""
    vacuum(shrunk, 0, dry_run=False)
    asked = pa.table({"user_id": ["u33"], "time": [dt.date(2024, 3, 2)]})
    assert open_table(shrunk, KEY).join(asked)["version"].to_pylist() == [None]
    with pytest.raises(InputError, match="may need vectors of version 0"):
        open_table(shrunk).join(asked)


def test_without_a_list_a_join_says_nothing_of_it(tmp_path):
    put(str(tmp_path), rows(3), "r0")
    joined = open_table(str(tmp_path), KEY).join(pa.table({"user_id": ["u1"], "time": [dt.date(2024, 3, 2)]}))
    assert joined["version"].to_pylist() == [0]
    assert LIST.encode() not in joined.schema.metadata


def test_who_is_forgotten_in_a_version(shrunk):
    tagging.tag(shrunk, "clean", 0, key=KEY)
    with_key = open_table(shrunk, KEY)
    assert set(forgotten_in(with_key, 0).to_pylist()) == {"u3", "u33"}
    assert [forgotten_in(with_key, version).to_pylist() for version in ("clean", 2, None)] == [[], [], []]
    assert forgotten_in(open_table(shrunk), 0).to_pylist() == []

"""Publishing: atomic, once per run, never over another publisher's work; on disk and in an object store."""

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.metadata import VersionCounts, VersionMetadata
from ray_ggsm.tables.publish import NO_TABLE, published_version
from tests.helpers.tables import BUCKETS, publish_files, put, rows, stage


def users(location: str, **options) -> list[str]:
    return sorted(open_table(location).read(columns=["user_id"], **options)["user_id"].to_pylist())


def test_first_version_and_reading_it_back(location):
    table = rows(53)
    assert put(location, table, "r0", metadata=VersionMetadata(encoder="enc1", counts=VersionCounts(expected=53))) == 0
    opened = open_table(location)
    assert (opened.version, opened.buckets) == (0, BUCKETS)
    assert opened.read().sort_by("user_id").equals(table.sort_by("user_id").combine_chunks())
    assert opened.metadata().counts == VersionCounts(expected=53)
    (commit,) = opened.history()
    assert (commit.version, commit.operation) == (0, "publish")
    assert (commit.run, commit.encoder, commit.rows) == ("r0", "enc1", 53)
    assert commit.metadata == opened.metadata()
    assert opened.verify(deep=True) == []


def test_a_place_with_spaces(tmp_path):
    location = str(tmp_path / "my users, ä=1")
    put(location, rows(20), "r0")
    assert len(users(location)) == 20
    assert open_table(location).verify() == []


def test_crash_between_staging_and_commit(location):
    put(location, rows(20), "r0")
    stage(location, rows(31), "r1")  # and here the process ends
    assert open_table(location).version == 0
    assert len(users(location)) == 20
    assert put(location, rows(31), "r1") == 1  # the rerun writes again, over the same names, and commits once
    assert put(location, rows(31), "r1") == 1
    assert open_table(location).version == 1
    assert len(users(location)) == 31


def test_a_run_publishes_once_however_often_it_is_started(location):
    staged = {run: stage(location, rows(20 + i), run) for i, run in enumerate(("r0", "r1", "r2"))}
    assert published_version(location, "r0") is None
    for _ in range(3):
        assert [publish_files(location, files, run) for run, files in staged.items()] == [0, 1, 2]
    assert [published_version(location, run) for run in ("r0", "r2", "r3")] == [0, 2, None]
    assert len(users(location)) == 22
    assert [commit.run for commit in open_table(location).history()] == ["r2", "r1", "r0"]


def test_replaced_buckets_carry_the_others_forward(location):
    table = rows(60)
    put(location, table, "r0")
    before = {file.bucket: file for file in open_table(location).data_files()}
    bucket_N = bucket_of(table["user_id"], BUCKETS)
    changed = rows([f"u{i}" for i in range(60) if bucket_N[i] == 3], run="r1", seed=5)
    files = stage(location, changed, "r1")
    assert publish_files(location, files, "r1", replaced=[1, 3], expected_version=0) == 1
    opened = open_table(location)
    after = {file.bucket: file for file in opened.data_files()}
    assert {k: after[k] for k in (0, 2, 4)} == {k: before[k] for k in (0, 2, 4)}  # the same files
    assert sorted(after) == [0, 2, 3, 4]  # bucket 1 is empty now
    assert opened.metadata().rows == opened.read().num_rows == 60 - (bucket_N == 1).sum()
    assert set(opened.read(user_ids=changed["user_id"])["run"].to_pylist()) == {"r1"}
    assert open_table(location).read(version=0).num_rows == 60


def test_nothing_replaced_is_still_a_version(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    assert publish_files(location, [], "r1", replaced=[], expected_version=0) == 1
    assert len(users(location)) == 20


def test_the_table_has_moved_on(location):
    put(location, rows(20), "r0")
    put(location, rows(21), "r1", expected_version=0)
    with pytest.raises(NotNow, match="built on version 0, but the table is at version 1"):
        put(location, rows(22), "r2", expected_version=0)
    with pytest.raises(NotNow, match="built on no table, but the table is at version 1"):
        put(location, rows(22), "r2", expected_version=NO_TABLE)
    assert len(users(location)) == 21
    assert put(location, rows(22), "r2", expected_version=1) == 2


def test_a_vacuum_in_between_is_no_other_publisher(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(21), "r1")
    delta.load(location).vacuum(0, dry_run=False, enforce_retention_duration=False)
    opened = open_table(location)
    assert opened.version > 1
    assert opened.metadata().run == opened.history()[0].run == "r1"
    assert opened.history()[0].rows == 21
    assert opened.history()[0].operation == "vacuum end"
    put(location, rows(22), "r2", expected_version=1)
    assert len(users(location)) == 22


def test_publishers_at_once_get_a_version_each_or_a_clear_error(location):
    put(location, rows(20), "r0")
    staged = {f"r{i}": stage(location, rows(20 + i, run=f"r{i}"), f"r{i}") for i in range(1, 5)}
    start, done, refused = threading.Barrier(len(staged)), {}, []

    def go(run: str) -> None:
        start.wait()
        try:
            done[run] = publish_files(location, staged[run], run)
        except NotNow as error:
            refused.append(str(error))

    threads = [threading.Thread(target=go, args=(run,)) for run in staged]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(done) + len(refused) == len(staged)
    assert all("start the run again" in sentence for sentence in refused)
    opened = open_table(location)
    assert sorted(done.values()) == list(range(1, opened.version + 1))
    assert {commit.run: commit.version for commit in opened.history()} == {"r0": 0, **done}
    for run, version in done.items():
        assert opened.read(version=version).num_rows == 20 + int(run[1:])


_together: list[threading.Barrier] = []
"""In the processes of the pool."""


def _meet_at(start: threading.Barrier) -> None:
    _together.append(start)


def _create(location: str, run: str) -> int | None:
    (start,) = _together
    try:
        files = stage(location, rows(20, run=run), run)
    except BaseException:
        start.abort()  # the other one fails instead of waiting
        raise
    start.wait()
    try:
        return publish_files(location, files, run, expected_version=NO_TABLE)
    except NotNow:
        return None


def test_two_processes_create_one_table(tmp_path):
    location, context = str(tmp_path / "users"), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, _meet_at, (context.Barrier(2),)) as pool:
        found = dict(zip("ab", pool.map(_create, [location] * 2, "ab"), strict=True))
    assert sorted(found.values(), key=str) == [0, None]
    winner = next(run for run, version in found.items() if version == 0)
    assert set(open_table(location).read()["run"].to_pylist()) == {winner}


def test_the_same_run_twice_at_once(tmp_path, monkeypatch):
    """The slower process finds that its own run has been committed by the other, and says so."""
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    files, find = stage(location, rows(21), "r1"), delta.find
    stale = find(location)
    assert publish_files(location, files, "r1") == 1
    answers = iter([stale])
    monkeypatch.setattr(delta, "find", lambda location: next(answers, None) or find(location))
    assert publish_files(location, files, "r1", expected_version=0) == 1
    monkeypatch.undo()
    assert open_table(location).version == 1


def test_files_must_be_there_with_their_size(location):
    put(location, rows(20), "r0")
    files = stage(location, rows(21), "r1")
    with pytest.raises(InputError, match=r"part-00000\.parquet: expected a file of \d+ bytes, it has \d+"):
        publish_files(location, [replace(files[0], size=files[0].size + 1), *files[1:]], "r1")
    storage.remove(storage.join(location, files[0].path))
    with pytest.raises(InputError, match="it is missing; nothing was published"):
        publish_files(location, files, "r1")
    assert open_table(location).version == 0


def test_wrong_input(tmp_path):
    location = str(tmp_path / "users")
    with pytest.raises(InputError, match="no table whose buckets could be replaced"):
        put(location, rows(20), "r0", replaced=list(range(BUCKETS)))
    put(location, rows(20), "r0")
    with pytest.raises(InputError, match="this table has 5 buckets, which never changes, found 6"):
        put(location, rows(20), "r1", buckets=6)
    with pytest.raises(InputError, match="run 'a b': expected letters"):
        put(location, rows(20), "a b")
    file = tmp_path / "users.parquet"
    file.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"users\.parquet: this is a file; a table is a directory"):
        open_table(str(file))


def test_many_versions_survive_checkpoints(tmp_path):
    location = str(tmp_path / "users")
    files = stage(location, rows(3), "files", buckets=1)
    for i in range(103):  # delta-rs writes a checkpoint every 100 commits
        publish_files(location, files, f"r{i}", buckets=1, metadata=VersionMetadata(width=i))
    assert storage.list_files(f"{location}/_delta_log", ".checkpoint.parquet")
    opened = open_table(location)
    assert [commit.metadata.width for commit in opened.history()] == list(range(102, -1, -1))
    assert publish_files(location, files, "r7", buckets=1) == 7
    assert opened.buckets == 1

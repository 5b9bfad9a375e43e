"""Rolling back, forgetting, vacuum, and the commands of jobs/tables.py."""

import os
from pathlib import Path

import pytest

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.pseudonyms import pseudonym
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import maintenance, open_table
from ray_ggsm.tables.maintenance import Forgotten, forget, rollback, vacuum
from ray_ggsm.tables.metadata import ForgottenRows, VersionMetadata
from ray_ggsm.tables.publish import LostRace
from tests.helpers.tables import BUCKETS, job, put, rows, stage

KEY = b"k" * 32


def users(location: str, version: int | None = None) -> set[str]:
    return set(open_table(location).read(version=version, columns=["user_id"])["user_id"].to_pylist())


def test_rollback(location):
    put(location, rows(20), "r0", metadata=VersionMetadata(encoder="enc0", gates={"norm": "fine"}))
    put(location, rows(31), "r1")
    old = open_table(location).files(0)
    assert rollback(location, 0) == 2
    table = open_table(location)
    assert table.files() == old
    assert table.read().equals(table.read(version=0))
    changed = {"operation": "rollback", "rolled_back_to": 0, "run": table.metadata().run}
    assert table.metadata().values() == {**table.metadata(0).values(), **changed}
    assert [commit.operation for commit in table.history()] == ["rollback", "publish", "publish"]
    assert rollback(location, 1) == 3
    assert len(users(location)) == 31
    with pytest.raises(InputError, match="version 3 is the newest one"):
        rollback(location, 3)
    with pytest.raises(InputError, match="no version 9; there are versions 0 to 3"):
        rollback(location, 9)


def test_rollback_meets_another_publisher(tmp_path, monkeypatch):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(21), "r1")
    publish = maintenance.publish

    def late(*new):
        put(location, rows(22), "r2")
        return publish(*new)

    monkeypatch.setattr(maintenance, "publish", late)
    with pytest.raises(LostRace, match="built on version 1, but the table is at version 2"):
        rollback(location, 0)
    assert len(users(location)) == 22


def test_forget_then_vacuum(location):
    table = rows(60)
    put(location, table, "r0", metadata=VersionMetadata(encoder="enc1", width=7))
    before = {file.bucket: file for file in open_table(location).data_files()}
    gone = ["u3", "u14", "u15"]
    touched = set(
        bucket_of(table["user_id"].filter([u in gone for u in table["user_id"].to_pylist()]), BUCKETS).tolist()
    )
    assert forget(location, [*gone, "u3", "nobody"], KEY) == Forgotten(version=1, users=3, rows=3, absent=("nobody",))
    opened = open_table(location)
    assert users(location) == users(location, 0) - set(gone)
    assert {f.bucket for f in opened.data_files() if f != before[f.bucket]} == touched  # only these were written again
    assert opened.read(user_ids=["u9"]).equals(opened.read(user_ids=["u9"], version=0))
    metadata = opened.metadata()
    assert (metadata.forgotten, metadata.width, metadata.rows) == (ForgottenRows(users=3, rows=3), 7, 57)
    assert opened.history()[0].operation == "forget"
    assert forget(location, gone, KEY) == Forgotten(version=1, users=0, rows=0, absent=tuple(sorted(gone)))
    assert vacuum(location, 24, dry_run=False) == []
    removed = vacuum(location, 0, dry_run=True)
    assert sorted(removed) == sorted(before[bucket].path for bucket in touched)
    assert len(users(location, 0)) == 60  # a dry run
    assert vacuum(location, 0, dry_run=False) == removed
    assert len(users(location)) == 57
    with pytest.raises(InputError, match="this data file is gone"):
        users(location, 0)
    assert open_table(location).verify(deep=True) == []
    for log in storage.list_files(f"{location}/_delta_log", ".json"):
        assert not any(f'"{user}"' in storage.read_text(log) for user in gone)  # nor does the log remember them


def test_forget_everybody(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    assert forget(location, [f"u{i}" for i in range(20)], KEY).rows == 20
    assert open_table(location).read().num_rows == 0
    assert open_table(location).matrix()[1].shape == (0, 0)


def test_vacuum_keeps_what_is_young(tmp_path):
    """By the commit that removed a file, and by the age of a file that no commit names."""
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(21), "r1")
    young, old = stage(location, rows(9), "young"), stage(location, rows(9), "old")
    past = Path(location).stat().st_mtime - 48 * 3600
    for path in [file.path for file in old] + [file.path for file in open_table(location).data_files(0)]:
        os.utime(f"{location}/{path}", (past, past))
    assert vacuum(location, 24, dry_run=True) == sorted(file.path for file in old)
    assert vacuum(location, 24, dry_run=False) == sorted(file.path for file in old)
    assert all(storage.exists(f"{location}/{file.path}") for file in young)
    assert len(users(location, 0)) == 20
    with pytest.raises(InputError, match="found -1"):
        vacuum(location, -1, dry_run=True)
    vacuum(location, 0, dry_run=False)
    with pytest.raises(InputError, match="cannot roll back to version 0; its files are gone"):
        rollback(location, 0)


def test_commands(tmp_path, capsys):
    location = str(tmp_path / "users")
    put(location, rows(1200), "r0")
    put(location, rows(31), "r1")
    assert job("history", location) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "1"
    assert lines[1].split()[3:] == ["publish", "31", "enc1", "r1"]
    assert job("verify", location, "--deep") == 0
    assert f"version 1: all {BUCKETS} files are as the log says" in capsys.readouterr().out
    (tmp_path / "gone.txt").write_text("u3\r\nnobody\n\nu4")
    (tmp_path / "key").write_bytes(KEY)
    assert job("forget", location, "--users-file", tmp_path / "gone.txt", "--key-file", tmp_path / "key") == 5
    out = capsys.readouterr().out
    assert "version 2: 2 users with 2 rows forgotten, 1 users were not there" in out
    assert f"not there: line 2 of {tmp_path}/gone.txt" in out
    assert "nobody" not in out, "logs hold no ids"
    assert job("rollback", location, 1) == 2
    assert "found no key" in capsys.readouterr().err
    assert job("rollback", location, 1, "--key-file", tmp_path / "key") == 0
    assert "version 3 has the rows of version 1" in capsys.readouterr().out
    assert job("vacuum", location, "--retention-hours", 0, "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("files would be removed")
    Path(open_table(location).files()[0]).unlink()
    assert job("verify", location) == 1
    assert "version 3: 1 of 5 files have problems" in capsys.readouterr().out


def test_forget_users_of_a_table_with_pseudonyms(tmp_path, capsys):
    location, key = str(tmp_path / "users"), KEY
    names = {name: pseudonym(name, key) for name in ("ann", "bob", "cat")}
    put(location, rows(list(names.values())), "r0")
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "gone.txt").write_text("ann\nnobody\n")
    assert job("forget", location, "--users-file", tmp_path / "gone.txt", "--key-file", tmp_path / "key") == 5
    assert "not there: line 2 of " in capsys.readouterr().out
    assert users(location) == {names["bob"], names["cat"]}


def test_wrong_input_to_commands(tmp_path, capsys):
    location = str(tmp_path / "users")
    put(location, rows(5), "r0")
    (tmp_path / "empty.txt").write_text("\n")
    forget_them = ["forget", location, "--key-file", tmp_path / "key", "--users-file"]
    for arguments, sentence in [
        (["history", tmp_path / "nothing"], "no embedding table here"),
        (["rollback", location, 7], "no version 7"),
        ([*forget_them, tmp_path / "none.txt"], "expected a text file with one user_id per line"),
        ([*forget_them, tmp_path / "empty.txt"], "there is no user_id in this file"),
    ]:
        assert job(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert sentence in error
        assert error.count("\n") == 1
    assert job("vacuum", location) == 2  # the retention is never guessed
    assert job("forget", location, "--users-file", tmp_path / "empty.txt") == 2  # without the list they come back

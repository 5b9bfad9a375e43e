"""Tags: versions that vacuum keeps, and that forgotten users leave all the same."""

import threading

import pytest

from ray_ggsm.config import InputError, NotNow
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import maintenance, open_table, tagging
from ray_ggsm.tables.maintenance import forget, rollback, vacuum
from ray_ggsm.tables.publish import LostRace
from ray_ggsm.tables.suppression import suppress
from ray_ggsm.tables.tagging import tag, untag
from tests.helpers.tables import BUCKETS, job, put, rows

KEY = b"k" * 32


def users(location: str, version: int | str | None = None) -> set[str]:
    return set(open_table(location).read(version=version, columns=["user_id"])["user_id"].to_pylist())


def named(count: int) -> set[str]:
    return {f"u{i}" for i in range(count)}


@pytest.fixture
def three(location) -> str:
    """Versions with 40, 50 and 60 users, all in other files."""
    for version, count in enumerate((40, 50, 60)):
        put(location, rows(count, seed=version, run=f"r{version}"), f"r{version}")
    return location


def test_a_tag_is_read_by_its_name(three):
    assert tag(three, "christmas", 1).rows == 50
    assert tag(three, "now").version == 2
    table = open_table(three)
    assert table.read(version="christmas").equals(table.read(version=1))
    assert table.read(version="christmas", user_ids=["u3"], as_of="2024-03-01").num_rows == 1
    assert table.files("christmas") == table.files(1)
    assert table.metadata("christmas") == table.metadata(1)
    assert table.matrix(version="christmas")[1].tolist() == table.matrix(version=1)[1].tolist()
    assert {name: found.version for name, found in table.tags().items()} == {"christmas": 1, "now": 2}
    with pytest.raises(InputError, match="no tag 'easter'; there are christmas, now"):
        table.read(version="easter")


def test_vacuum_keeps_tagged_versions_and_nothing_else(three):
    tag(three, "christmas", 1)
    gone = {file.removeprefix(f"{three}/") for file in open_table(three).files(0)}
    assert vacuum(three, 0, dry_run=False) == sorted(gone)
    assert users(three, "christmas") == named(50)
    assert users(three, 1) == named(50)
    untag(three, "christmas")
    with pytest.raises(InputError, match="no tag 'christmas'; there are no tags"):
        users(three, "christmas")
    assert len(vacuum(three, 0, dry_run=False)) == BUCKETS
    assert users(three) == named(60)


def test_a_tag_moves_only_when_asked(three):
    tag(three, "best", 0)
    with pytest.raises(InputError, match="tag 'best' names version 0; give --move"):
        tag(three, "best", 1)
    opened = open_table(three)
    assert len(opened.read(version="best")) == 40
    assert tag(three, "best", 1, move=True).version == 1
    assert len(opened.read(version="best")) == 40, "an opened table does not move"
    assert users(three, "best") == named(50)
    untag(three, "best")
    assert tag(three, "best", 2).version == 2, "the name is free again"
    with pytest.raises(InputError, match="no tag 'other'"):
        untag(three, "other")


def test_forgotten_users_leave_tagged_versions(three):
    tag(three, "christmas", 0)
    tag(three, "small", 0)
    before = open_table(three)
    before.read(version="christmas")
    done = forget(three, ["u3", "u45", "nobody"], KEY)
    assert (done.tags, done.absent) == (("christmas", "small"), ("nobody",))
    table = open_table(three)
    assert users(three, "christmas") == users(three, "small") == named(40) - {"u3"}
    (touched,) = set(bucket_of(table.read(version=0, user_ids=["u3"])["user_id"], BUCKETS).tolist())
    kept = [file for file in table.data_files(0) if file.bucket != touched]
    assert [file for file in table.data_files("christmas") if file.bucket != touched] == kept
    assert table.read(version="christmas", user_ids=["u7"]).equals(table.read(version=0, user_ids=["u7"]))
    assert table.metadata("christmas").rows == 39
    assert table.version == 3, "no reader of the table sees more than one commit"
    vacuum(three, 0, dry_run=False)
    assert users(three, "christmas") == named(40) - {"u3"}
    with pytest.raises(InputError, match="this data file is gone"):
        before.read(version="christmas")
    assert forget(three, ["u3"], KEY).tags == ()


def test_who_is_only_in_a_tag_is_forgotten_there(tmp_path):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(10), "r1")
    tag(location, "first", 0)
    done = forget(location, ["u15"], KEY)
    assert (done.users, done.absent, done.tags) == (0, (), ("first",))
    assert users(location, "first") == named(20) - {"u15"}
    assert forget(location, [f"u{i}" for i in range(20)], KEY).users == 10
    assert users(location, "first") == set()


def test_a_version_of_before_a_forget_is_tagged_without_the_forgotten(three):
    forget(three, ["u3", "u55"], KEY)
    with pytest.raises(InputError, match="found no key"):
        tag(three, "christmas", 0)
    assert tag(three, "now").rows == 58, "the newest version honours the list"
    assert tag(three, "christmas", 0, key=KEY).rows == 39
    assert users(three, "christmas") == named(40) - {"u3"}


def test_a_rollback_to_a_tag(three):
    tag(three, "christmas", 0)
    forget(three, ["u3"], KEY)
    vacuum(three, 0, dry_run=False)
    assert rollback(three, "christmas", key=KEY) == 4
    assert users(three) == named(40) - {"u3"}
    metadata = open_table(three).metadata()
    assert (metadata.rolled_back_to, metadata.rows, metadata.operation) == (0, 39, "rollback")


def test_a_version_whose_files_are_gone_cannot_be_tagged(three):
    vacuum(three, 0, dry_run=False)
    with pytest.raises(InputError, match="version 0 cannot be tagged; vacuum has removed its files"):
        tag(three, "old", 0)
    with pytest.raises(InputError, match="no version 9"):
        tag(three, "old", 9)


@pytest.mark.parametrize("name", ["", "7", "a/b", "a b", "../x", "x" * 65])
def test_names(tmp_path, name):
    location = str(tmp_path / "users")
    put(location, rows(5), "r0")
    with pytest.raises(InputError, match="expected at most 64 letters"):
        tag(location, name)


def test_a_forget_that_did_not_see_the_tag(tmp_path, monkeypatch):
    """It read the tags before there was this one: so the tag sees its entry on the list."""
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    add = tagging.add_entry

    def late(*entry):
        monkeypatch.undo()
        suppress(location, ["u3"], KEY)
        return add(*entry)

    monkeypatch.setattr(tagging, "add_entry", late)
    with pytest.raises(NotNow, match="users were forgotten just now"):
        tag(location, "christmas")
    assert open_table(location).tags() == {}


def test_a_tag_that_changes_while_users_are_forgotten(tmp_path, monkeypatch):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(30, seed=1), "r1")
    tag(location, "best", 0)
    add = maintenance.add_entry

    def late(*entry):
        monkeypatch.undo()
        tagging.add_entry(location, "best", open_table(location).tags()["best"], 1, open_table(location).data_files(1))
        return add(*entry)

    monkeypatch.setattr(maintenance, "add_entry", late)
    forget(location, ["u3"], KEY)
    assert users(location, "best") == named(30) - {"u3"}


def test_threads_forget_and_tag_at_once(location):
    put(location, rows(60), "r0")
    tag(location, "first")
    start, refused = threading.Barrier(4), []

    def go(work) -> None:
        start.wait()
        try:
            work()
        except (NotNow, InputError) as error:
            refused.append(error)

    works = [lambda i=i: forget(location, [f"u{i}"], KEY) for i in range(3)]
    threads = [threading.Thread(target=go, args=(work,)) for work in [*works, lambda: tag(location, "other", 0)]]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(refused) <= 1, refused  # the tag, which may ask for the key or to start again
    assert users(location) == users(location, "first") == named(60) - named(3)
    for name in open_table(location).tags():
        assert users(location, name) == named(60) - named(3)


def test_two_writers_of_one_tag(tmp_path, monkeypatch):
    location = str(tmp_path / "users")
    put(location, rows(20), "r0")
    put(location, rows(21), "r1")
    read = tagging.read_entry

    def early(*place):
        found = read(*place)
        monkeypatch.undo()
        tag(location, "best", 0)
        return found

    monkeypatch.setattr(tagging, "read_entry", early)
    with pytest.raises(LostRace, match="tag 'best' was changed just now"):
        tag(location, "best", 1)
    assert users(location, "best") == named(20)


def test_commands(tmp_path, capsys):
    location, key = str(tmp_path / "users"), tmp_path / "key"
    put(location, rows(20), "r0")
    put(location, rows(21), "r1")
    key.write_bytes(KEY)
    (tmp_path / "gone.txt").write_text("u3\n")
    assert job("tag", location, "christmas", "--version", 0) == 0
    assert job("tag", location, "christmas") == 2
    assert job("tag", location, "christmas", "--move") == 0
    assert "tag christmas: version 1, 21 rows in 5 files" in capsys.readouterr().out
    assert job("forget", location, "--users-file", tmp_path / "gone.txt", "--key-file", key) == 0
    assert "tag christmas: without them, too" in capsys.readouterr().out
    assert job("tag", location, "first", "--version", 0, "--key-file", key) == 0
    assert job("tags", location) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[-2:]] == [["christmas", "1", "20"], ["first", "0", "19"]]
    assert job("rollback", location, "first", "--key-file", key) == 0
    assert "version 3 has the rows of tag 'first'" in capsys.readouterr().out
    assert job("untag", location, "first") == 0
    assert job("untag", location, "first") == 2
    assert "no tag 'first'; there are christmas" in capsys.readouterr().err

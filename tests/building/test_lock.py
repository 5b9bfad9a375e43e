"""One refresh of a table at a time, without clocks that must agree."""

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from ray_ggsm.building import lock
from ray_ggsm.building.lock import Holder, held
from ray_ggsm.config import InputError, NotNow

HOLDER = {"host": "elsewhere", "pid": 17, "since": "2024-03-01 02:00:00 UTC", "token": "0", "renewed": 3}
"""The content of a lock file, as every version of the package writes it."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0.0)
    return tmp_path / "refresh.lock"


def passing_time(monkeypatch: pytest.MonkeyPatch, then) -> None:
    """Do `then` while a process waits to see whether the holder is still at work."""
    monkeypatch.setattr(lock.time, "sleep", lambda _: then())


def test_the_file_names_this_process_and_goes_away(file: Path) -> None:
    with held(str(file)):
        holder = json.loads(file.read_text())
        assert holder.keys() == HOLDER.keys()
        assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
    assert not file.exists()


def test_it_is_renewed(file: Path) -> None:
    with held(str(file)):
        while json.loads(file.read_text())["renewed"] < 2:
            pass


def test_another_refresh_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(json.dumps(HOLDER))
    passing_time(monkeypatch, lambda: file.write_text(json.dumps({**HOLDER, "renewed": 4})))
    sentence = "a refresh of this table is running: process 17 on elsewhere since 2024-03-01 02:00:00 UTC; wait for it"
    with pytest.raises(NotNow, match=sentence), held(str(file)):
        pass
    assert json.loads(file.read_text())["renewed"] == 4, "the holder keeps its lock"


def test_a_holder_that_ended_somewhere_else_is_followed(file: Path, monkeypatch, capsys) -> None:
    file.write_text(json.dumps(HOLDER))
    passing_time(monkeypatch, lambda: None)
    with held(str(file)):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert "process 17 on elsewhere since 2024-03-01 02:00:00 UTC left" in capsys.readouterr().out


def test_a_process_of_this_machine_that_ended_is_not_waited_for(file: Path, monkeypatch) -> None:
    file.write_text(json.dumps({**HOLDER, "host": socket.gethostname(), "pid": 2**22 - 1}))
    passing_time(monkeypatch, lambda: pytest.fail("nobody to wait for"))
    with held(str(file)):
        assert json.loads(file.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_many_starters_at_once_one_enters(file: Path, left_behind: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def content() -> dict[str, str]:
        found = {}
        for each in file.parent.glob("refresh.lock*"):
            with contextlib.suppress(FileNotFoundError):
                found[each.name] = each.read_text()
        return found

    def until_all_have_changed() -> None:
        before = content()
        while any(now == before.get(name) for name, now in content().items()):
            pass

    passing_time(monkeypatch, until_all_have_changed)
    ended = {**HOLDER, "host": socket.gethostname(), "pid": 2**22 - 1}
    for attempt in range(10):
        if left_behind:
            file.write_text(json.dumps({**ended, "token": str(attempt)}))
        inside, most, refused = [], [], []
        everybody, first_done = threading.Barrier(4), threading.Event()

        def start() -> None:
            everybody.wait()  # noqa: B023
            try:
                with held(str(file)):
                    inside.append(1)  # noqa: B023
                    most.append(len(inside))  # noqa: B023
                    first_done.wait()  # noqa: B023
                    inside.pop()  # noqa: B023
            except NotNow:
                refused.append(1)  # noqa: B023
            if len(refused) == 3:  # noqa: B023
                first_done.set()  # noqa: B023

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (most, len(refused)) == ([1], 3)
        assert [f.name for f in file.parent.iterdir()] == []


def test_a_holder_whose_lock_was_taken_over_stops(file: Path) -> None:
    """Also where Ctrl-C is ignored, as in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def work() -> None:
        with held(str(file)):
            file.write_text(json.dumps(HOLDER))
            while True:
                pass

    try:
        with pytest.raises(NotNow, match="another one has taken over"):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert json.loads(file.read_text())["pid"] == 17


def test_who_took_the_lock_meanwhile_keeps_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holder, "write", lambda *_: None)
    with held(str(file)):
        file.write_text(json.dumps(HOLDER))
    assert file.exists()


def test_a_file_that_is_no_lock(file: Path) -> None:
    for content in ("", "[]", '{"host": "elsewhere"}'):
        file.write_text(content)
        with (
            pytest.raises(InputError, match=r"refresh\.lock: this lock file cannot be read; remove it"),
            held(str(file)),
        ):
            pass

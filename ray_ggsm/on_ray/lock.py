"""One refresh of a table at a time: a small file beside the table says who is at work.

The holder renews it; one that was killed does not, and after a while its file no longer counts. The lock only saves
work: should two runs meet in spite of it, the table's own commit lets one of them through.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray_ggsm import storage
from ray_ggsm.config import InputError

RENEW_SECONDS = 20.0
STALE_SECONDS = 120.0


@contextmanager
def held(location: str) -> Iterator[None]:
    """Hold the lock file until the block ends.

    Raises:
        InputError: another process holds it; the sentence says which, since when and where.
    """
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    if storage.exists(location):
        other = json.loads(storage.read_text(location))
        age = time.time() - other["renewed"]
        gone = other["host"] == mine["host"] and not _runs(other["pid"])
        if age < STALE_SECONDS and not gone and (other["host"], other["pid"]) != (mine["host"], mine["pid"]):
            raise InputError(
                f"{location}: a refresh of this table is running: process {other['pid']} on {other['host']} since "
                f"{other['since']}; wait for it, or end it and try again after {STALE_SECONDS:.0f} s"
            )
    _renew(location, mine)
    if storage.read_json(location)["pid"] != mine["pid"]:
        raise InputError(f"{location}: another refresh of this table has just begun; wait for it")
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(RENEW_SECONDS):
            _renew(location, mine)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        storage.remove(location)


def _renew(location: str, mine: dict[str, object]) -> None:
    storage.write_json(location, {**mine, "renewed": time.time()})


def _runs(pid: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

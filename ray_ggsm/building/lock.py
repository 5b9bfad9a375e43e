"""One refresh of a table at a time: a small file beside the table says who is at work.

The holder writes it again every few seconds, so whoever finds one waits and sees whether it changes: no clocks are
compared, and the file of a run that was killed holds nobody up for long. The lock only saves work: should two runs
meet in spite of it, the table's own commit lets one of them through.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray_ggsm import storage
from ray_ggsm.config import InputError

RENEW_SECONDS = 4.0
WAIT_SECONDS = 3 * RENEW_SECONDS


@contextmanager
def held(location: str) -> Iterator[None]:
    """Hold the lock file until the block ends.

    Raises:
        InputError: another process holds it; the sentence says which, since when and where.
    """
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "token": uuid.uuid4().hex}
    other = _read(location)
    if other and not _ended(other):
        print(f"refresh: {_name(other)} left {location}; looking whether it is still at work", flush=True)
        time.sleep(WAIT_SECONDS)
        again = _read(location)
        if again and again != other:
            raise InputError(f"{location}: a refresh of this table is running: {_name(again)}; wait for it, or end it")
    storage.write_json(location, {**mine, "renewed": 0})
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(location, mine, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if (_read(location) or {}).get("token") == mine["token"]:
            storage.remove(location)


def _renew(location: str, mine: dict[str, Any], stop: threading.Event) -> None:
    count = 0
    while not stop.wait(RENEW_SECONDS):
        count += 1
        try:
            storage.write_json(location, {**mine, "renewed": count})
        except Exception as error:  # the next time may do
            logging.getLogger(__name__).warning("%s: not renewed (%s)", location, error)


def _read(location: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = storage.read_json(location)
    except FileNotFoundError:
        return None
    return found


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _ended(holder: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine and runs no more."""
    if holder["host"] != socket.gethostname():
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False

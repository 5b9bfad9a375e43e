"""One refresh of a table at a time: a small file beside the table names the process that is at work.

The holder writes the file again every few seconds, so another process that finds it waits and sees whether it changes:
no clocks are compared, and the file of a run that was killed blocks others only for seconds. Of several processes that
write it at once one gets through, also of those that find a file left behind; a holder whose file was taken over stops.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow, Record
from ray_ggsm.interrupts import Interrupt, watched

RENEW_SECONDS = 4.0
"""Time between two renewals of the lock file."""
WAIT_SECONDS = 3 * RENEW_SECONDS
"""Time after which a lock file that was not renewed is taken over."""


class Holder(Record):
    """The process that holds a lock: the content of the lock file."""

    host: str
    """Name of its machine."""
    pid: int
    """Process id on that machine."""
    since: str
    """Time when it took the lock."""
    token: str
    """Random text that tells it from a later holder."""
    renewed: int = 0
    """Number of renewals so far."""

    @classmethod
    def this_process(cls) -> "Holder":
        """A new holder: this process, from now on."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(host=socket.gethostname(), pid=os.getpid(), since=since, token=uuid.uuid4().hex)

    @classmethod
    def read(cls, location: str) -> "Holder | None":
        """The holder that a lock file names; None: there is no lock file.

        Raises:
            InputError: the file is no lock file.
        """
        try:
            return cls.model_validate_json(storage.read_text(location))
        except FileNotFoundError:
            return None
        except ValueError:
            raise InputError(
                f"{location}: this lock file cannot be read; remove it, unless a job that holds it is running"
            ) from None

    def write(self, location: str) -> None:
        """Write the lock file."""
        storage.write_json(location, self.model_dump(mode="json"))

    def has_ended(self) -> bool:
        """Whether the holder ran on this machine and has ended."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextmanager
def held(location: str, work: str = "a refresh of this table") -> Iterator[None]:
    """Hold the lock file until the block ends; `work` names what it is held for.

    Raises:
        NotNow: another process holds it, or took it over because this one did not renew it for too long; the sentence
            says which one, since when and where.
    """
    this = Holder.this_process()
    _take(location, this, work)
    try:
        with watched(partial(_renew, location, this)):
            yield
    finally:
        last = Holder.read(location)
        if last and last.token == this.token:
            storage.remove(location)


def _take(location: str, this: Holder, work: str) -> None:
    """Write the lock file, which only one of several processes at once can do."""
    while not storage.write_new(location, this.model_dump_json().encode()):
        other = Holder.read(location)
        if other and not other.has_ended():
            print(f"{other} left {location}; looking whether it is still at work", flush=True)
            time.sleep(WAIT_SECONDS)
            before, other = other, Holder.read(location)
            if other and other != before:
                raise NotNow(f"{location}: {work} is running: {other}; wait for it, or end it")
        if other is None:
            continue
        # of those who find the same file left behind, one takes it over
        successor = f"{location}-{other.token}"
        _take(successor, this, work)
        try:
            if Holder.read(location) == other:
                this.write(location)
                return
        finally:
            storage.remove(successor)


def _renew(location: str, holder: Holder, interrupt: Interrupt, stop: threading.Event) -> None:
    """Renew the lock file until the end; if another holder has it, end the work of the main thread."""
    count = 0
    while not stop.wait(RENEW_SECONDS):
        count += 1
        try:
            now = Holder.read(location)
            if now is not None and now.token != holder.token:
                interrupt.end(f"{location}: this run was not heard of for too long, and another one has taken over")
                return
            holder.model_copy(update={"renewed": count}).write(location)
        except Exception as error:  # the next renewal may succeed
            logging.getLogger(__name__).warning("%s: not renewed (%s)", location, error)

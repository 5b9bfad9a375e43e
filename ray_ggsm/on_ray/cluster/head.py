"""Watches the head of a cluster.

Ray ends a driver whose head is gone with exit code 1, after a minute or what `RAY_gcs_rpc_server_reconnect_timeout_s`
says, and nothing in the driver can catch it. Shortly before, this ends it with a sentence and the code for "not now".
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray_ggsm.config import NotNow
from ray_ggsm.log import say_error

RAY_WAITS = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Variable with the seconds that Ray waits for a head."""
POLL_SECONDS = 2.0
"""Time between two looks at the head."""
EARLIER_SECONDS = 10.0
"""How much earlier than Ray the driver ends."""


@contextmanager
def watched_head(address: str) -> Iterator[None]:
    """Watch the head at `host:port` until the block ends; a head that cannot be reached from here is not watched.

    Where it is gone for as long as Ray waits for it, the process ends with the exit code of NotNow.
    """
    stop = threading.Event()
    if _answers(address):
        seconds = float(os.environ.get(RAY_WAITS, 60)) - EARLIER_SECONDS
        threading.Thread(target=_watch, args=(address, max(seconds, 0), stop), daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _watch(address: str, seconds: float, stop: threading.Event) -> None:
    seen = time.monotonic()
    while not stop.wait(POLL_SECONDS):
        if _answers(address):
            seen = time.monotonic()
        elif time.monotonic() - seen > seconds:
            sentence = (
                f"the head of the cluster ({address}) is gone; finished work is kept, start again on a new cluster"
            )
            say_error(f"not now: {sentence}")
            sys.stdout.flush()
            os._exit(NotNow.EXIT_CODE)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=POLL_SECONDS):
            return True
    except (OSError, ValueError):
        return False

"""Ends work of the main thread from another thread, as "not now"."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ray_ggsm.config import NotNow

SIGNAL = signal.SIGUSR1
"""To the main thread; SIGINT is ignored by what shells start in the background."""


class Interrupt:
    """A block of the main thread that another thread can end."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why the block was ended; None: it was not."""
        self.is_over = False
        """Whether the block has ended."""

    def end(self, reason: str) -> None:
        """End the block, also where it waits for Ray; outside the main thread it only ends by itself."""
        self.reason = reason
        if signal.getsignal(SIGNAL) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """A block that `Interrupt.end` ends.

    Raises:
        NotNow: it did, with its reason.
    """
    interrupt, is_main = Interrupt(), threading.current_thread() is threading.main_thread()
    before = signal.getsignal(SIGNAL)

    def end_work(number: int, frame: FrameType | None) -> None:
        if interrupt.reason is not None and not interrupt.is_over:
            raise KeyboardInterrupt  # any other exception in `ray.get` would end the process at once
        if callable(before):  # the signal is for a block around this one
            before(number, frame)

    if is_main:
        signal.signal(SIGNAL, end_work)
    try:
        yield interrupt
    except KeyboardInterrupt:
        if interrupt.reason is None:
            raise
        raise NotNow(interrupt.reason) from None
    finally:
        interrupt.is_over = True
        if is_main:
            signal.signal(SIGNAL, before)


@contextmanager
def watched(watch: Callable[[Interrupt, threading.Event], None]) -> Iterator[None]:
    """A block beside which a thread runs `watch`, which may end the block, and returns once the event is set.

    Raises:
        NotNow: it did.
    """
    stop = threading.Event()
    with interruptible() as interrupt:
        thread = threading.Thread(target=watch, args=(interrupt, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

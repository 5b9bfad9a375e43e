"""What workers want people to see: an actor collects lines, a thread of the job prints them.

It also carries errors that no restart can mend, so that they end the job at once and without Ray's wrapping.

The rest of the workers' output stays in Ray's log files, so that a job's terminal (or log file) can be read.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

POLL_SECONDS = 1.0


class _Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failure: Exception | None = None

    def write(self, line: str) -> None:
        self.lines.append(line)

    def fail(self, error: Exception) -> None:
        self.failure = error

    def failed(self) -> Exception | None:
        return self.failure

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


@contextmanager
def console() -> Iterator[Any]:
    """An actor handle; what workers `write.remote(line)` is printed by this process until the block ends.

    The actor lives on this process's node, so that no other node's loss takes it away.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lines = ray.remote(num_cpus=0, scheduling_strategy=here)(_Lines).remote()
    stop = threading.Event()

    def show() -> None:
        for line in ray.get(lines.take.remote()):
            print(line, flush=True)

    def poll() -> None:
        while not stop.wait(POLL_SECONDS):
            show()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        stop.set()
        thread.join()
        show()
        ray.kill(lines)

"""Lines from workers on the job's terminal: an actor collects them, a thread of the job prints them.

The actor also carries errors that no restart can mend, so that they end the job at once and without Ray's wrapping. All
other output of workers stays in Ray's log files, so that a job's terminal (or log file) stays readable.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

POLL_SECONDS = 1.0
"""Time between two looks for new lines."""


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
    """A handle of the actor; until the block ends, this process prints every line of `write.remote(line)`.

    The actor lives on this process's node, so that it survives the loss of any other node.
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

"""Processes that tests start, and waits for what they do.

No wait ends after some seconds: a busy machine is no failure. It ends when the state is there, or fails when the
process that should bring it about has ended without. Pytest's `timeout` only guards against hanging for ever.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

State = TypeVar("State")
PAUSE = 0.05


def wait_until(state: Callable[[], State], alive: Callable[[], bool] = lambda: True, why: str = "it ended") -> State:
    """What `state` gives as soon as that is true; fails when `alive` was false before another look."""
    while True:
        can_still_come = alive()
        if found := state():
            return found
        if not can_still_come:
            pytest.fail(why)
        time.sleep(PAUSE)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(port: int, process: subprocess.Popen) -> None:
    """Wait until a process answers on a port."""

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers, lambda: process.poll() is None)


class Process:
    """A process that leads a session of its own; its output goes to files, so that nobody has to read along."""

    def __init__(
        self, command: Sequence[str], files: Path, directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        files.mkdir(parents=True)
        self.files = files
        with (files / "output").open("w") as output, (files / "errors").open("w") as errors:
            self.popen = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self.popen.pid

    @property
    def output(self) -> str:
        return (self.files / "output").read_text()

    @property
    def errors(self) -> str:
        return (self.files / "errors").read_text()

    def running(self) -> bool:
        return self.popen.poll() is None

    def finish(self) -> int:
        """Wait for the end; returns the exit code."""
        return self.popen.wait()

    def succeed(self) -> str:
        """Wait for the end, which must be a good one; returns the output."""
        assert self.finish() == 0, self.output + self.errors
        return self.output

    def wait_until(self, state: Callable[[], State]) -> State:
        """What `state` gives as soon as that is true; fails with the output when the process ends before."""
        try:
            return wait_until(state, self.running)
        except pytest.fail.Exception:
            pytest.fail(f"process ended with exit code {self.popen.returncode}\n{self.output}{self.errors}")

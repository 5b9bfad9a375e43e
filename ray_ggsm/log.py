"""The lines that a job prints: text for people or, with RAY_GGSM_LOG=json, one JSON object each for a log collector.

Everything that is printed becomes lines of the same kind, warnings of libraries included. `say` prints a line and names
the numbers in it; `about` tells which table and run the lines of a block are about.
"""

import datetime as dt
import io
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO

Value = str | int | float | None
_known: dict[str, str] = {}
"""What lines are about now: fields that each has."""


def say(text: str, **numbers: Value) -> None:
    """Print a line; as JSON it has `numbers` as fields, too."""
    _print(text, sys.stdout, "info", numbers)


def say_error(text: str) -> None:
    """Print to stderr why a job ends."""
    _print(text, sys.stderr, "error", {})


def _print(text: str, stream: TextIO, level: str, numbers: Mapping[str, Value]) -> None:
    if isinstance(stream, JsonLines):
        stream.add(text, level, numbers)
    else:
        print(text, file=stream, flush=True)


def show(document: str) -> None:
    """Print what other programs read from stdout, as it is."""
    stream = sys.stdout
    print(document, end="", file=stream.stream if isinstance(stream, JsonLines) else stream)


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Give the block's lines these fields. After an error they stay, so that the line about it has them."""
    before = dict(_known)
    _known.update(fields)
    yield
    _replace(before)


@contextmanager
def printed_as(form: str, job: str) -> Iterator[None]:
    """Print the block's lines as `text` or `json`; `job` is what they are about."""
    _replace({"job": job})
    if form == "text":
        yield
        return
    out, err = JsonLines(sys.stdout, "info"), JsonLines(sys.stderr, "warning")
    with redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            out.end_line()
            err.end_line()


def _replace(fields: dict[str, str]) -> None:
    _known.clear()
    _known.update(fields)


class _Unfinished(threading.local):
    """What a thread has written of its line."""

    text = ""


class JsonLines(io.TextIOBase):
    """A stream that makes a JSON object of each line, at one level, and writes it to another stream."""

    def __init__(self, stream: TextIO, level: str) -> None:
        self.stream, self.level, self._unfinished = stream, level, _Unfinished()

    def add(self, text: str, level: str, numbers: Mapping[str, Value]) -> None:
        """Write a line, or several that belong together."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "level": level, **_known, "message": text.strip("\n"), **numbers}
        self.stream.write(json.dumps(line) + "\n")
        self.stream.flush()

    def write(self, text: str) -> int:
        """Take text; its lines are written once they end."""
        *lines, self._unfinished.text = (self._unfinished.text + text.replace("\r", "\n")).split("\n")
        for line in lines:
            if line.strip():
                self.add(line, self.level, {})
        return len(text)

    def end_line(self) -> None:
        """Write what this thread has begun."""
        if self._unfinished.text:
            self.write("\n")

    def flush(self) -> None:
        """Flush the other stream."""
        self.stream.flush()

    def fileno(self) -> int:
        """That of the other stream."""
        return self.stream.fileno()

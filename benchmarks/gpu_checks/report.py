"""Checks, what they found, and how that is shown."""

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch


class SkippedError(Exception):
    """The check cannot be made on this machine; the message says why."""


@dataclass(frozen=True)
class Number:
    """Something measured, and the limit it must keep, if it has one. NaN keeps no limit."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it keeps its limits."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    def __str__(self) -> str:
        limits = [(self.at_most, "at most"), (self.at_least, "at least")]
        said = ", ".join(f"{word} {_plain(limit)}" for limit, word in limits if limit is not None)
        return f"{self.name} {_plain(self.value)}{f' ({said})' if said else ''}"


@dataclass(frozen=True)
class Check:
    """A claim, and how it is tried. `run` may raise `SkippedError`; any other error is a failure."""

    claim: str
    run: Callable[[], Sequence[Number]]


@dataclass(frozen=True)
class Row:
    """What became of a check."""

    part: str
    claim: str
    passed: bool | None
    """None: it was not made."""
    result: str
    numbers: tuple[Number, ...] = ()
    seconds: float = 0.0

    @property
    def word(self) -> str:
        """`ok`, `FAILED` or `not made`."""
        return {True: "ok", False: "FAILED", None: "not made"}[self.passed]


@dataclass(frozen=True)
class Machine:
    """Where and when the checks were made."""

    date: str
    device: str
    torch: str
    transformers: str


def run_part(part: str, checks: Callable[[], Iterator[Check]], ends_at: float) -> Iterator[Row]:
    """A row for every check of a part; no check begins after `ends_at` (time.monotonic).

    An error is a failed row, also one of the part's own preparation.
    """
    waiting = checks()
    while True:
        try:
            check = next(waiting, None)
        except Exception as error:
            yield Row(part, "preparation", False, _sentence(error))
            return
        if check is None:
            return
        in_time = time.monotonic() < ends_at
        yield _run(part, check) if in_time else Row(part, check.claim, None, "no time was left")
        tidy()


def _run(part: str, check: Check) -> Row:
    started = time.perf_counter()
    numbers: tuple[Number, ...] = ()
    try:
        numbers = tuple(check.run())
        passed, result = all(n.passed for n in numbers), "; ".join(map(str, numbers))
    except SkippedError as error:
        passed, result = None, str(error)
    except Exception as error:
        traceback.print_exc()
        passed, result = False, _sentence(error)
    return Row(part, check.claim, passed, result, numbers, time.perf_counter() - started)


def tidy() -> None:
    """Forget compiled kernels, and give memory that nobody holds back to the device."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def table(rows: Sequence[Row], machine: Machine) -> str:
    """A Markdown table for docs/benchmarks.md."""
    lines = ["| claim | result | date | device | torch |", "|---|---|---|---|---|"]
    for row in rows:
        result = row.result if row.passed else f"**{row.word}**: {row.result}"
        cells = row.claim, result, machine.date, machine.device, machine.torch
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def as_json(rows: Sequence[Row], machine: Machine) -> str:
    """Everything that was measured."""
    return json.dumps({**asdict(machine), "rows": [asdict(row) for row in rows]}, indent=1)


def _plain(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.5g}" if 0.9 < value < 1 else f"{value:.3g}"


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

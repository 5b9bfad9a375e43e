"""The page of a run, for the morning after: is the table fresh, what changed, did the gates hold, what did it cost?

Values of the run stand beside those that the version before recorded; what it did not record is unknown.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from ray_ggsm import html
from ray_ggsm.clock import today

CHANGES = ("written", "encoded", "carried", "new", "departed", "dead_letters")
"""Counts of rows that the page compares."""


@dataclass(frozen=True)
class Compared:
    """A number of the run beside that of the version before; None: unknown."""

    name: str
    now: float | None
    before: float | None

    @property
    def ratio(self) -> float | None:
        """How many times the number before; None: unknown."""
        return None if self.now is None or not self.before else self.now / self.before


def render(report: Mapping[str, Any]) -> str:
    """A report (`RunReport` as plain values) as one HTML page that loads no other file."""
    before = report["before"] or {"counts": {}, "seconds": {}, "rates": {}}
    now = _with_carried(report["counts"])
    template = html.environment("ray_ggsm.building").get_template("run.html.j2")
    return template.render(
        report=report,
        freshness=freshness(report["ages"], report["zone"]) if report["zone"] else None,
        changes=compared(CHANGES, now, _with_carried(before["counts"])),
        seconds=compared(report["seconds"], report["seconds"], before["seconds"]),
        rates=compared(report["rates"] or before["rates"], report["rates"], before["rates"]),
        others={name: count for name, count in report["counts"].items() if name not in CHANGES},
    )


def freshness(ages: Mapping[str, int], zone: str) -> str:
    """How old the vectors of a table are today, in one sentence; `ages` has the moments (ISO, UTC) that they are of."""
    if not ages:
        return "Age unknown: no version records the moments that its vectors are of"
    now = today(zone)
    newest, oldest = (dt.datetime.fromisoformat(end(ages)).astimezone(ZoneInfo(zone)).date() for end in (max, min))
    state = "Fresh" if newest >= now else "Not fresh"
    return f"{state}: the newest vectors are of {_told(newest, now)}, the oldest of {_told(oldest, now)}"


def _told(day: dt.date, now: dt.date) -> str:
    days = (now - day).days
    ago = f"{days:,} days ago" if days != 1 else "1 day ago"
    return f"{day} ({ago if days else 'today'})"


def compared(names: Iterable[str], now: Mapping[str, float], before: Mapping[str, float]) -> list[Compared]:
    """Numbers by name, now and before."""
    return [Compared(name, now.get(name), before.get(name)) for name in names]


def _with_carried(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, and the rows whose vectors were carried forward, where that is known."""
    if not {"written", "encoded"} <= counts.keys():
        return dict(counts)
    return {**counts, "carried": counts["written"] - counts["encoded"]}

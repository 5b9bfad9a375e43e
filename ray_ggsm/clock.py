"""The one clock: days, ages and dates follow the calendar of a time zone, and windows are cut at instants of it.

An age is the difference between what a clock on the wall showed at two moments. So an event at noon is always half a
day before midnight, also when the clocks were changed in between, and ages agree with `days_away` and `hour(time)` in
SQL.
"""

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MICROSECONDS_PER_DAY = 86_400_000_000


def start_of_day(day: dt.date, zone: str) -> dt.datetime:
    """The first instant of a day in a time zone, in UTC.

    Where clocks skip midnight, it is the instant of the change; where they show midnight twice, the first one.
    """
    return dt.datetime.combine(day, dt.time(), ZoneInfo(zone)).astimezone(dt.UTC)


def today(zone: str) -> dt.date:
    """The day that the calendar shows now in a time zone."""
    return dt.datetime.now(ZoneInfo(zone)).date()


def wall_clock(times: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """What clocks in the zone of `times` showed at these instants, in microseconds since 1970, int64 (N,)."""
    shown: np.ndarray = pc.local_timestamp(times).cast(pa.int64()).to_numpy()
    return shown


def wall_clock_of_as_of(as_of_B: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """`wall_clock`, but 0:00 at the first instant of a day whose midnight is skipped, int64 (B,)."""
    shown_B = wall_clock(as_of_B)
    before = pc.subtract(as_of_B, pa.scalar(1, pa.duration("us")))
    midnight_B = shown_B - shown_B % MICROSECONDS_PER_DAY
    return np.where(wall_clock(before) < midnight_B, midnight_B, shown_B)


def age_days(as_of: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Days on the wall clock from events to their `as_of`, float64; both in microseconds (of `wall_clock`)."""
    return (as_of - time) / MICROSECONDS_PER_DAY

"""The one clock: starts of days, and ages on the wall clock, against values by hand and by Python's datetime."""

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_ggsm.clock import start_of_day, wall_clock, wall_clock_of_as_of

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "America/Havana", "Asia/Kolkata")


@pytest.mark.parametrize(
    ("zone", "day", "expected"),
    [
        ("Europe/Berlin", "2024-03-31", "2024-03-30T23:00"),
        ("Europe/Berlin", "2024-04-01", "2024-03-31T22:00"),
        ("America/Santiago", "2024-09-08", "2024-09-08T04:00"),  # 0:00 is skipped: 23:59 is followed by 1:00
        ("America/Santiago", "2024-09-09", "2024-09-09T03:00"),
        ("America/Havana", "2024-11-03", "2024-11-03T04:00"),  # 0:00 comes twice, at 4:00 and at 5:00
        ("America/Havana", "2024-11-04", "2024-11-04T05:00"),
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00"),  # the whole day is skipped
    ],
)
def test_the_start_of_a_day(zone: str, day: str, expected: str) -> None:
    assert start_of_day(dt.date.fromisoformat(day), zone) == dt.datetime.fromisoformat(f"{expected}+00:00")


def test_as_of_at_a_skipped_midnight_counts_as_midnight() -> None:
    days = [dt.date(2024, 9, 7), dt.date(2024, 9, 8), dt.date(2024, 9, 9)]
    as_of_B = pa.array([start_of_day(day, "America/Santiago") for day in days], pa.timestamp("us", "America/Santiago"))
    assert (wall_clock(as_of_B) // 3_600_000_000 % 24).tolist() == [0, 1, 0]
    assert [dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=int(us)) for us in wall_clock_of_as_of(as_of_B)] == [
        dt.datetime.combine(day, dt.time()) for day in days
    ]


@given(st.sampled_from(ZONES), st.integers(0, 800), st.integers(0, 10**14))
def test_a_time_before_a_day_begins_shows_an_earlier_date(zone: str, days: int, before: int) -> None:
    """So no age of a history is negative where `as_of` is the start of a day."""
    day = dt.date(2023, 6, 1) + dt.timedelta(days)
    start = start_of_day(day, zone)
    times = pa.array([start - dt.timedelta(microseconds=before + 1), start], pa.timestamp("us", zone))
    earlier, now = wall_clock(times)
    assert wall_clock_of_as_of(times[1:]).item() == (day - dt.date(1970, 1, 1)).days * 86_400_000_000 <= now
    assert earlier < wall_clock_of_as_of(times[1:]).item()
    local = (start - dt.timedelta(microseconds=before + 1)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    assert np.datetime64(local, "us").astype(int) == earlier

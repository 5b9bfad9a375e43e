"""What people give as a moment, and the instant that it means."""

import datetime as dt
from zoneinfo import ZoneInfo

from ray_ggsm.config import InputError

Moment = dt.datetime | dt.date | str
"""A datetime, a date (its midnight) or an ISO string; without a time zone of its own it is in that of the user rows."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def parsed(moment: Moment, name: str = "as_of") -> dt.datetime:
    """The moment as a datetime, with the time zone that it names, if any; `name` stands in errors.

    Raises:
        InputError: it is no ISO text.
    """
    if isinstance(moment, str):
        try:
            return dt.datetime.fromisoformat(moment)
        except ValueError as error:
            raise InputError(f"{name}: expected an ISO date or time such as 2024-03-01, found '{moment}'") from error
    return moment if isinstance(moment, dt.datetime) else dt.datetime.combine(moment, dt.time())


def instant(moment: dt.datetime, zone: str | None) -> dt.datetime:
    """The instant (UTC) of a moment; `zone` is that of naive ones, None: UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone or "UTC"))).astimezone(dt.UTC)


def microseconds(moment: dt.datetime) -> int:
    """Microseconds from 1970 to an instant."""
    return (moment - EPOCH) // dt.timedelta(microseconds=1)

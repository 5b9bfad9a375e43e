"""Names, time zones and types that a `data` section may use."""

import re
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field

RESERVED = ("user_id", "as_of", "tabular", "query", "answer", "scenario", "future", "days_away", "row")
EARLIEST_YEAR, LATEST_YEAR = 1900, 2200
"""Events of other years have a wrong time."""
OWN_TABLES = ("rejected", "snapshots", "features", "labels", "sequences", "reject_errors", "reject_scans")


def _name(name: str) -> str:
    if not (name.isidentifier() and name.isascii() and name.islower()):
        raise ValueError("a name is lower-case letters, digits and underscores, not starting with a digit")
    if name in RESERVED:
        raise ValueError(f"reserved names are {', '.join(RESERVED)}; choose another one")
    return name


def time_zones() -> set[str]:
    """Names of time zones that mean one zone everywhere."""
    return available_timezones() - {"localtime", "Factory", "posixrules"}


def _timezone(name: str) -> str:
    if name not in time_zones():
        raise ValueError("expected an IANA time zone such as UTC or Europe/Berlin")
    return name


def sql_type(name: str) -> str:
    """Check the name of a DuckDB type."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_ ]*(\(\d+(, ?\d+)?\))?", name):
        raise ValueError("expected a DuckDB type such as double, bigint, varchar, date or decimal(10, 2)")
    return name


Name = Annotated[str, AfterValidator(_name)]
TimeZone = Annotated[str, AfterValidator(_timezone)]
Days = Annotated[int, Field(ge=1, le=3660)]
Quantile = Annotated[float, Field(gt=0, lt=1)]

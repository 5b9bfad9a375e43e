"""Which users are looked at when: the table `snapshots`, one row per user row of all splits."""

import datetime as dt
from collections.abc import Mapping

import pyarrow as pa

from ray_ggsm.clock import start_of_day
from ray_ggsm.data.aggregates import CALENDAR, EVENTS, SNAPSHOT, Window, all_windows
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import Database
from ray_ggsm.data.schema import DEAD_LETTER
from ray_ggsm.data.splits_config import SplitConfig
from ray_ggsm.data.sql import own, quote, text

SHUFFLED = "md5(user_id || '|' || epoch_us(as_of))"
"""SQL: the order of the rows, which is the same on every machine."""
TOO_FEW_EVENTS = "too_few_events"
"""Reason of a dead letter: what `minimum_events` asks of a user."""
USERS = {"train": "NOT is_test", "test": "is_test", "all": "true"}


def create_snapshots(
    database: Database, config: DataConfig, splits: Mapping[str, SplitConfig], without: str | None = None
) -> None:
    """Create the table `snapshots` (row, split, user_id, as_of, and what `Window.relation` needs) of these splits.

    `without` names a table of users (user_id) who get no row; None: there is none.

    A user has a row at a cutoff when the table of `minimum_events` has enough rows of theirs in the history window.
    Rows are numbered in a shuffled order that is the same on every machine (by the MD5 sum of user and cutoff).
    Users are materialised first: or DuckDB takes the sum that tells who is a test user for every event.
    """
    least = config.snapshots.minimum_events
    keys = database.tables[least.table]
    user = quote(keys.user)
    window = Window(least.table, "history", config.snapshots.history_days)
    users, cutoffs, wanted, active, number = (
        quote(own(name)) for name in ("users", "cutoffs", "wanted", "active", "number")
    )
    rows = " UNION ALL ".join(_split(name, split, users, cutoffs) for name, split in splits.items())
    windows = [Window(least.table, side, days) for side, days in all_windows(config)]
    instants = ", ".join(["as_of", CALENDAR, *(window.bound for window in windows)])
    dates = ", ".join(
        _cutoff(k, day, windows, config.snapshots.timezone) for k, day in enumerate(config.snapshots.dates)
    )
    others = "" if without is None else f"ANTI JOIN {quote(without)} USING (user_id)"
    database.connection.execute(
        f"""CREATE TABLE snapshots AS
        WITH {users} AS MATERIALIZED (
            SELECT user_id, {_is_test(database, config)} AS is_test
            FROM (SELECT DISTINCT {user} AS user_id FROM {quote(least.table)}) {others}
        ), {cutoffs}(k, {instants}) AS (VALUES {dates}),
        {wanted} AS (SELECT row_number() OVER () AS {number}, * FROM ({rows})),
        {active} AS (
            SELECT {SNAPSHOT}.{number}
            FROM {wanted} AS {SNAPSHOT}, LATERAL {window.relation(keys, SNAPSHOT)} AS {EVENTS}
            GROUP BY ALL HAVING count(*) >= {least.count}
        )
        SELECT row_number() OVER (ORDER BY {SHUFFLED}, split) AS row, * EXCLUDE ({number})
        FROM {wanted} SEMI JOIN {active} USING ({number})"""
    )


def too_few_events(database: Database, config: DataConfig, split: str, kept: str | None) -> pa.Table:
    """Users with events in the history window of the first cutoff, but too few for a row, as dead letters.

    `kept` names a table of users (user_id) who have none because they keep a vector; None: there is none.
    """
    least, day, zone = config.snapshots.minimum_events, config.snapshots.dates[0], config.snapshots.timezone
    user, time, _ = database.tables[least.table]
    here, others = f"{quote(user)} IS NOT NULL", "SELECT user_id FROM snapshots"
    if time is not None:
        first = _instant(_days_after(day, -config.snapshots.history_days), zone)
        here += f" AND {quote(time)} >= {first} AND {quote(time)} < {_instant(day, zone)}"
    if kept is not None:
        others += f" UNION ALL SELECT user_id FROM {quote(kept)}"
    found = database.connection.sql(
        f"""SELECT {text(split)} AS split, user_id, {_instant(day, zone)} AS as_of, NULL AS source,
            {text(TOO_FEW_EVENTS)} AS reason, {text(f"fewer than {least.count} in {least.table}")} AS detail
        FROM (SELECT DISTINCT {quote(user)} AS user_id FROM {quote(least.table)} WHERE {here})
        ANTI JOIN ({others}) USING (user_id) ORDER BY user_id"""
    )
    return found.to_arrow_table().cast(DEAD_LETTER)


def _cutoff(k: int, day: dt.date, windows: list[Window], zone: str) -> str:
    """Position, instant, day, and the far ends of all windows of a cutoff, as a row of values."""
    ends = [_days_after(day, -window.days if window.side == "history" else window.days) for window in windows]
    calendar = f"timestamp {text(day.isoformat() + ' 00:00:00')}"
    return f"({', '.join([str(k), _instant(day, zone), calendar, *(_instant(end, zone) for end in ends)])})"


def _is_test(database: Database, config: DataConfig) -> str:
    """SQL: whether a user is a test user."""
    users = config.users
    if users.test_table is not None:
        return f"user_id IN (SELECT {quote(database.tables[users.test_table].user)} FROM {quote(users.test_table)})"
    return f"('0x' || md5({text(users.salt)} || user_id))::uhugeint % 100 >= {100 - users.test_percent}"


def _days_after(day: dt.date, days: int) -> dt.date:
    """A day before or after another, at most one day from the end of the calendar."""
    first, last = dt.date.min.toordinal() + 1, dt.date.max.toordinal() - 1
    return dt.date.fromordinal(min(max(day.toordinal() + days, first), last))


def _instant(day: dt.date, zone: str) -> str:
    return f"timestamptz {text(start_of_day(day, zone).isoformat(sep=' '))}"


def _split(name: str, split: SplitConfig, users: str, cutoffs: str) -> str:
    positions = ", ".join(map(str, split.cutoffs))
    who = f"{USERS[split.users]} AND k IN ({positions})"
    return f"SELECT {text(name)} AS split, user_id, {cutoffs}.* EXCLUDE (k) FROM {users}, {cutoffs} WHERE {who}"

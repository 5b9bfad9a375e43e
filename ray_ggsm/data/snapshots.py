"""Which users are looked at when: the table `snapshots`, one row per user row of all splits."""

from collections.abc import Mapping

from ray_ggsm.data.aggregates import EVENTS, SNAPSHOT, Window
from ray_ggsm.data.config import DataConfig, SplitConfig
from ray_ggsm.data.database import Database
from ray_ggsm.data.sql import own, quote, text

USERS = {"train": "NOT is_test", "test": "is_test", "all": "true"}


def create_snapshots(database: Database, config: DataConfig, splits: Mapping[str, SplitConfig]) -> None:
    """Create the table `snapshots` (row, split, user_id, as_of) of these splits.

    A user has a row at a cutoff when the table of `minimum_events` has enough rows of theirs in the history window.
    Rows are numbered in a shuffled order that is the same on every machine (by the MD5 sum of user and cutoff).
    """
    least = config.snapshots.minimum_events
    keys = database.tables[least.table]
    user = quote(keys.user)
    window = Window(least.table, "history", config.snapshots.history_days)
    users, cutoffs, wanted, active = (quote(own(name)) for name in ("users", "cutoffs", "wanted", "active"))
    rows = " UNION ALL ".join(_split(name, split, f"{users}, {cutoffs}") for name, split in splits.items())
    dates = ", ".join(
        f"({k}, timestamptz {text(day.isoformat() + ' 00:00:00')})" for k, day in enumerate(config.snapshots.dates)
    )
    database.connection.execute(
        f"""CREATE TABLE snapshots AS
        WITH {users} AS (
            SELECT {user} AS user_id, ('0x' || md5({text(config.users.salt)} || {user}))::uhugeint % 100
                >= {100 - config.users.test_percent} AS is_test
            FROM {quote(least.table)} GROUP BY ALL
        ), {cutoffs}(k, as_of) AS (VALUES {dates}), {wanted} AS ({rows}),
        {active} AS (
            SELECT {SNAPSHOT}.split, {SNAPSHOT}.user_id, {SNAPSHOT}.as_of
            FROM {wanted} AS {SNAPSHOT}, LATERAL {window.relation(keys, SNAPSHOT)} AS {EVENTS}
            GROUP BY ALL HAVING count(*) >= {least.count}
        )
        SELECT row_number() OVER (ORDER BY md5(user_id || '|' || epoch_us(as_of)), split) AS row, * FROM {active}"""
    )


def _split(name: str, split: SplitConfig, relations: str) -> str:
    cutoffs = ", ".join(map(str, split.cutoffs))
    who = f"{USERS[split.users]} AND k IN ({cutoffs})"
    return f"SELECT {text(name)} AS split, user_id, as_of FROM {relations} WHERE {who}"

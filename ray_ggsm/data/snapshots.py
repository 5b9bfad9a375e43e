"""Which users are looked at when: the table `snapshots`, one row per user row of all stages."""

from collections.abc import Mapping

import duckdb

from ray_ggsm.data.aggregates import Window
from ray_ggsm.data.config import DataConfig, StageConfig
from ray_ggsm.data.database import table_keys
from ray_ggsm.data.sql import quote, text

USERS = {"train": "NOT is_test", "test": "is_test", "all": "true"}


def create_snapshots(
    connection: duckdb.DuckDBPyConnection, config: DataConfig, stages: Mapping[str, StageConfig]
) -> None:
    """Create the table `snapshots` (row, stage, user_id, as_of) of these stages.

    A user has a row at a cutoff when the table of `minimum_events` has enough rows of theirs in the history window.
    Rows are numbered in a shuffled order that is the same on every machine (by the MD5 sum of user and cutoff).
    """
    least = config.snapshots.minimum_events
    user, time = table_keys(config)[least.table]
    window = Window(least.table, "history", config.snapshots.history_days)
    wanted = " UNION ALL ".join(_stage(name, stage) for name, stage in stages.items())
    dates = ", ".join(
        f"({k}, timestamptz {text(day.isoformat() + ' 00:00:00')})" for k, day in enumerate(config.snapshots.dates)
    )
    connection.execute(
        f"""CREATE TABLE snapshots AS
        WITH users AS (
            SELECT {quote(user)} AS user_id, ('0x' || md5({text(config.users.salt)} || {quote(user)}))::uhugeint % 100
                >= {100 - config.users.test_percent} AS is_test
            FROM {quote(least.table)} GROUP BY ALL
        ), cutoffs(k, as_of) AS (VALUES {dates}), asked AS ({wanted}),
        active AS (
            SELECT stage, s.user_id, s.as_of FROM asked AS s, LATERAL {window.relation((user, time), "s")} AS e
            GROUP BY ALL HAVING count(*) >= {least.count}
        )
        SELECT row_number() OVER (ORDER BY md5(user_id || '|' || epoch_us(as_of)), stage) AS row, * FROM active"""
    )


def _stage(name: str, stage: StageConfig) -> str:
    cutoffs = ", ".join(map(str, stage.cutoffs))
    who = f"{USERS[stage.users]} AND k IN ({cutoffs})"
    return f"SELECT {text(name)} AS stage, user_id, as_of FROM users, cutoffs WHERE {who}"

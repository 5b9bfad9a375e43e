"""Who keeps the vector that a table has, told by the events of one shard of users before any row is made.

A user keeps it who has no event between its moment and tonight, whose history has lost none that it had, and of whom
nothing came into the store since the last night, whatever its time.
"""

import datetime as dt
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import pyarrow as pa

from ray_ggsm.clock import start_of_day
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import Database
from ray_ggsm.data.pseudonyms import pseudonyms
from ray_ggsm.data.sql import own, quote
from ray_ggsm.data.store.source import EventStore

KEPT = own("kept")
"""Table of the users who keep their vector: user_id, and the vector's as_of."""
_VECTORS, _LATE = own("vectors"), own("late")


@dataclass(frozen=True)
class Vectors:
    """The vectors that may be kept: not too old, and of the same encoder."""

    users: pa.Table
    """`user_id` and `as_of`, one row per user; users of other shards are ignored."""
    since: int | None
    """Change of the store that the night before knew; None: no store, so later events tell all that is new."""
    rows_for_all: bool = False
    """Whether users who keep their vector get a row all the same, because more than these events may have changed."""


def create_kept(database: Database, config: DataConfig, vectors: Vectors, key: bytes | None) -> None:
    """Create the table KEPT. With a key, `vectors` has pseudonyms, and so has the column `name` of KEPT."""
    connection, least = database.connection, config.snapshots.minimum_events
    tonight = _ends(config, start_of_day(config.snapshots.dates[0], config.snapshots.timezone))
    connection.register(_VECTORS, _with_starts(config, _raw(database, vectors.users, key)))
    connection.register(_LATE, pa.table({"user_id": _late(database, vectors.since)}))
    names = {m.table for m in config.modalities.values()} | {f.table for f in config.features} | {least.table}
    dated = {name: keys for name, keys in database.tables.items() if name in names and keys.time is not None}
    changed = [f"SELECT user_id FROM {quote(_LATE)}"]
    now, first = (f"timestamptz '{end.isoformat(sep=' ')}'" for end in tonight)
    for name, keys in dated.items():
        user, time = (f"e.{quote(str(column))}" for column in keys[:2])
        changed.append(
            f"SELECT DISTINCT v.user_id FROM {quote(name)} AS e JOIN {quote(_VECTORS)} AS v ON v.user_id = {user} "
            f"WHERE ({time} >= v.as_of AND {time} < {now}) OR ({time} >= v.first AND {time} < {first})"
        )
    keys = database.tables[least.table]
    here = f"{quote(str(keys.time))} >= {first} AND {quote(str(keys.time))} < {now}"
    connection.execute(
        f"CREATE TABLE {quote(KEPT)} AS SELECT user_id, name, as_of FROM {quote(_VECTORS)} "
        f"SEMI JOIN (SELECT {quote(keys.user)} AS user_id FROM {quote(least.table)} WHERE {here}) USING (user_id) "
        f"ANTI JOIN ({' UNION ALL '.join(changed)}) USING (user_id)"
    )


def _raw(database: Database, users: pa.Table, key: bytes | None) -> pa.Table:
    """The vectors with the user ids of the events, and those of the table as `name`."""
    users = users.append_column("name", users["user_id"])
    if key is None:
        return users
    named = " UNION ALL ".join(f"SELECT {quote(k.user)} AS user_id FROM {quote(n)}" for n, k in database.tables.items())
    raw = database.connection.sql(f"SELECT DISTINCT user_id FROM ({named})").to_arrow_table()["user_id"].drop_null()
    known = pa.table({"user_id": raw, "name": pseudonyms(raw, key)})
    return users.drop_columns(["user_id"]).join(known, "name", join_type="inner")


def _with_starts(config: DataConfig, users: pa.Table) -> pa.Table:
    """The vectors with the beginning of their history as `first`."""
    encoded = users["as_of"].combine_chunks().dictionary_encode()
    kind = pa.timestamp("us", "UTC")
    starts = [_ends(config, moment)[1] for moment in encoded.dictionary.to_pylist()]
    return users.append_column("first", pa.array(starts, kind).take(encoded.indices))


def _ends(config: DataConfig, as_of: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """The end and the beginning of a history, as instants."""
    zone = config.snapshots.timezone
    day = as_of.astimezone(ZoneInfo(zone)).date().toordinal() - config.snapshots.history_days
    return as_of, start_of_day(dt.date.fromordinal(max(day, 2)), zone)


def _late(database: Database, since: int | None) -> pa.Array:
    """Users of whom the store has got anything since a change."""
    source = database.source
    if since is None or not isinstance(source, EventStore):
        return pa.array([], pa.string())
    return source.users_since(since)

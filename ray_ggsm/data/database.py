"""An in-memory DuckDB with the event tables of one shard of users, locked before any of the user's SQL runs.

Times are instants (TIMESTAMPTZ) and the session's time zone is that of the snapshots, so `hour(time)`, casts to dates
and `as_of + interval 3 day` in expressions follow its calendar, also across changes of daylight saving.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.config import DataConfig, FilesSource
from ray_ggsm.data.sources import files, journey
from ray_ggsm.data.sql import quote, reason, text

Keys = tuple[str, str | None]
"""The user column and the time column of a table; a static table has no time."""


@contextmanager
def opened(
    config: DataConfig, shard: int = 0, shards: int = 1, *, empty: bool = False, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the source's tables, the table `rejected`, and no way out.

    Args:
        config: names the source and the time zone.
        shard: position of the shard of users, of `shards`.
        shards: number of shards.
        empty: only create the tables with their columns.
        threads: threads DuckDB may use; None: all cores.

    Raises:
        InputError: the source cannot be read, or a checked expression fails on the data (also inside the `with` block).
    """
    options: dict[str, Any] = {"python_enable_replacements": False, **({"threads": threads} if threads else {})}
    with duckdb.connect(config=options) as connection:
        connection.execute(f"SET TimeZone = {text(config.snapshots.timezone)}")
        connection.execute(
            'CREATE TABLE rejected ("table" VARCHAR, split VARCHAR, user_id VARCHAR, as_of TIMESTAMPTZ, '
            "source VARCHAR, reason VARCHAR, detail VARCHAR)"
        )
        if isinstance(config.source, FilesSource):
            files.load(connection, config.source, _amount_columns(config), shard, shards, empty)
        else:
            journey.load(connection, shard, shards, empty)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            yield connection
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException) as error:
            raise InputError(f"data: an expression cannot be computed for some row: {reason(error)}") from None


def table_keys(config: DataConfig) -> dict[str, Keys]:
    """Every table of the source with the columns that say who and when."""
    if isinstance(config.source, FilesSource):
        return {name: (table.user, table.time) for name, table in config.source.tables.items()}
    return dict.fromkeys(journey.TABLES, ("user_id", "time"))


def columns_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Column names and types of a table."""
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE {quote(table)}").fetchall()}


def source_fingerprint(config: DataConfig) -> dict[str, dict[str, str]]:
    """What the source's content depends on: files with size and time, or the version of a package."""
    return files.fingerprint(config.source) if isinstance(config.source, FilesSource) else journey.fingerprint()


def enforce_table_shares(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> None:
    """Stop when too many of a table's rows were rejected while it was read.

    Raises:
        InputError: with the most frequent reason and an example.
    """
    for table in table_keys(config):
        good = connection.execute(f"SELECT count(*) FROM {quote(table)}").fetchall()[0][0]
        bad = connection.execute('SELECT count(*) FROM rejected WHERE "table" = ?', [table]).fetchall()[0][0]
        if bad > config.max_bad_share * (good + bad):
            why, count, example = connection.execute(
                f"SELECT reason, count(*), min(source || ', ' || detail) FROM rejected WHERE \"table\" = {text(table)} "
                "GROUP BY reason ORDER BY 2 DESC, 1 LIMIT 1"
            ).fetchall()[0]
            hint = "; see data.source.tables." + table + ".time_format and .timezone" if why == "bad_time" else ""
            raise InputError(
                f"data.source.tables.{table}: {bad} of {good + bad} rows cannot be used, {count} of them for "
                f"'{why}' (for example {example}){hint}; correct them or raise data.max_bad_share "
                f"({config.max_bad_share})"
            )


def _amount_columns(config: DataConfig) -> dict[str, set[str]]:
    """Per table, the amounts that are plain column names: those must be numbers."""
    amounts: dict[str, set[str]] = {}
    for modality in config.modalities.values():
        if modality.amount is not None and modality.amount.isidentifier():
            amounts.setdefault(modality.table, set()).add(modality.amount)
    return amounts

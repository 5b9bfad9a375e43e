"""An in-memory DuckDB with the event tables of one shard of users, locked before any of the user's SQL runs.

Times are instants (TIMESTAMPTZ) and the session's time zone is that of the snapshots, so `hour(time)`, casts to dates
and `as_of + interval 3 day` in expressions follow its calendar, also across changes of daylight saving.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.source_choice import source_of
from ray_ggsm.data.sources.column_types import Types
from ray_ggsm.data.sources.source import CREATE_REJECTED, Extract, Keys, Source
from ray_ggsm.data.sql import OWN, quote, reason, text


@dataclass(frozen=True)
class Database:
    """The source's tables of one shard of users, the table `rejected`, and what the steps of prepare add to them."""

    connection: duckdb.DuckDBPyConnection
    source: Source
    """Where the tables come from."""
    types: Types
    """The types of columns that no schema gives."""

    @property
    def tables(self) -> dict[str, Keys]:
        """The source's tables, with the columns that say who and when."""
        return self.source.tables()

    def columns(self, table: str) -> dict[str, str]:
        """Column names and types of a table, without those that this package adds."""
        described = self.connection.execute(f"DESCRIBE {quote(table)}").fetchall()
        return {row[0]: row[1] for row in described if not row[0].startswith(OWN)}

    def has(self, table: str, column: str) -> bool:
        """Whether a table has a column, also one that this package adds."""
        return column in (row[0] for row in self.connection.execute(f"DESCRIBE {quote(table)}").fetchall())


@contextmanager
def opened(
    config: DataConfig,
    shard: int = 0,
    shards: int = 1,
    *,
    types: Types | None = None,
    empty: bool = False,
    threads: int | None = None,
    source: Source | None = None,
    only: Collection[str] | None = None,
    texts: bool = True,
) -> Iterator[Database]:
    """A database with the source's tables and no way out.

    Args:
        config: names the source and the time zone.
        shard: position of the shard of users, of `shards`.
        shards: number of shards.
        types: of columns that no schema gives; None: what their values tell.
        empty: only create the tables with their columns.
        threads: threads DuckDB may use; None: all cores.
        source: where the shard's events come from; None: what the config names.
        only: tables that are needed; None: all.
        texts: whether columns that only templates show are needed.

    Raises:
        InputError: the source cannot be read, or a checked expression fails on the data (also inside the `with` block).
    """
    source = source or source_of(config)
    options: dict[str, object] = {"python_enable_replacements": False, **({"threads": threads} if threads else {})}
    if config.memory_gb is not None:
        options["memory_limit"] = f"{config.memory_gb:.3f}GB"
    elif threads is not None:
        options["memory_limit"] = f"{80 * min(1, threads / (os.cpu_count() or 1)):.3f}%"
    with tempfile.TemporaryDirectory() as spilled, duckdb.connect(config=options) as connection:
        connection.execute(f"SET temp_directory = {text(spilled)}")
        if config.spill_gb is not None:
            connection.execute(f"SET max_temp_directory_size = '{config.spill_gb:.3f}GB'")
        _set_up(connection, config.snapshots.timezone)
        connection.execute(CREATE_REJECTED)
        try:
            if types is None:
                types = source.column_types(connection)
            source.load(connection, types, Extract(shard, shards, empty, only, texts))
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield Database(connection, source, types)
        except duckdb.OutOfMemoryException as error:
            raise InputError(
                f"data.memory_gb, data.spill_gb: a shard needs more ({reason(error)}); allow more, or use more shards"
            ) from None
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException) as error:
            raise InputError(f"data: an expression cannot be computed for some row: {reason(error)}") from None


def _set_up(connection: duckdb.DuckDBPyConnection, zone: str) -> None:
    """Set the time zone, and make x / 0 NULL.

    By default 0 / 0 is NaN, which DuckDB calls greater than every number: `0 / 0 > 0.5` would be true.
    """
    try:
        connection.execute(f"SET TimeZone = {text(zone)}")
    except duckdb.Error as error:
        raise InputError(f"data.snapshots.timezone: {reason(error)}") from None
    connection.execute("SET ieee_floating_point_ops = false")
    connection.execute("SET error_on_division_by_zero = false")


@dataclass(frozen=True)
class TableRows:
    """How many rows of a table can be used, in one shard."""

    good: int
    bad: int
    reasons: Mapping[str, int]
    """Reason -> rejected rows."""
    examples: Mapping[str, str]
    """Reason -> where one of them stands, and what stood there."""


def count_rows(database: Database, max_bad_share: float, tables: Collection[str] | None = None) -> dict[str, TableRows]:
    """Per table, how many rows of this shard can be used; examples only where too few can. `tables` None: all."""
    connection, counts = database.connection, {}
    for table in (name for name in database.tables if tables is None or name in tables):
        good = connection.execute(f"SELECT count(*) FROM {quote(table)}").fetchall()[0][0]
        found = f'FROM rejected WHERE "table" = {text(table)} GROUP BY reason'
        reasons = dict(connection.execute(f"SELECT reason, count(*) {found}").fetchall())
        bad, examples = sum(reasons.values()), {}
        if bad > max_bad_share * (good + bad):
            database.source.locate(connection)
            examples = dict(connection.execute(f"SELECT reason, min(source || ', ' || detail) {found}").fetchall())
        counts[table] = TableRows(good, bad, reasons, examples)
    return counts


def enforce_table_shares(shards: Sequence[Mapping[str, TableRows]], max_bad_share: float) -> None:
    """Stop when more than this share of a table's rows, over all shards, was rejected while it was read.

    Raises:
        InputError: with the most frequent reason and an example.
    """
    for table in shards[0] if shards else ():
        parts = [shard[table] for shard in shards]
        good, bad = sum(part.good for part in parts), sum(part.bad for part in parts)
        if bad <= max_bad_share * (good + bad):
            continue
        reasons = sum((Counter(part.reasons) for part in parts), Counter())
        why = min(reasons, key=lambda reason: (-reasons[reason], reason))
        examples = sorted(part.examples[why] for part in parts if why in part.examples)
        hint = f"; see data.source.tables.{table}.time_format and .timezone" if why == "bad_time" else ""
        raise InputError(
            f"data.source.tables.{table}: {bad} of {good + bad} rows cannot be used, {reasons[why]} of them for "
            f"'{why}'{f' (for example {examples[0]})' if examples else ''}{hint}; correct them or raise "
            f"data.max_bad_share ({max_bad_share})"
        )

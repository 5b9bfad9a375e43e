"""Features and labels: aggregates over the window of a snapshot, before or after `as_of`.

Every aggregate is a lateral subquery, so it has a value for every snapshot: over an empty window `count(*)` is 0 and
`sum(x)` is NULL, as in SQL over no rows. A snapshot is a row of the table `snapshots` (`ray_ggsm.data.snapshots`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb

from ray_ggsm.config import InputError, Record
from ray_ggsm.data.config import DataConfig, FeatureConfig, LabelConfig
from ray_ggsm.data.database import Database
from ray_ggsm.data.definition import RowDefinition
from ray_ggsm.data.sources.column_types import is_number
from ray_ggsm.data.sources.source import KNOWN_FROM, KNOWN_UNTIL, Keys
from ray_ggsm.data.sql import as_float, check_expressions, columns_in, own, quote, reason, text

Side = Literal["history", "future"]
EVENTS, SNAPSHOT = quote(own("events")), quote(own("snapshot"))
"""Aliases in queries, which are no columns of the user's."""
SNAPSHOT_COLUMNS = {"row", "split", "user_id"}
"""Columns of the table `snapshots` that an expression must not mean, where its own table has none of the name."""
CALENDAR = quote(own("calendar"))
"""Column of the table `snapshots`: midnight of the day of `as_of` as the calendar has it, without a time zone."""


class Fitted(Record):
    """What is known before any shard: what is learned from the rows of the train split, or given by a definition."""

    thresholds: dict[str, float]
    """Label -> the quantile's value."""
    definition: RowDefinition
    """Definition of the rows, with the vocabularies of features."""
    types: dict[str, dict[str, str]]
    """Table -> column -> DuckDB type, of columns that no schema gives."""


@dataclass(frozen=True)
class Window:
    """The rows of a table that belong to a snapshot."""

    table: str
    side: Side
    days: int

    @property
    def bound(self) -> str:
        """Column of the table `snapshots` with the instant at the end of the window that is not `as_of`, quoted."""
        return quote(own(f"{self.side} of {self.days} days"))

    def relation(self, keys: Keys, snapshot: str) -> str:
        """SQL that selects the rows of the snapshot with this alias (quoted), and adds the column `days_away`."""
        user, time, has_periods = keys
        rows = f"{quote(self.table)} AS {EVENTS} WHERE {EVENTS}.{quote(user)} = {snapshot}.user_id"
        if time is None:
            first, end = (f"{EVENTS}.{quote(bound)}" for bound in (KNOWN_FROM, KNOWN_UNTIL))
            known = f" AND {first} <= {snapshot}.as_of AND {snapshot}.as_of < {end}" if has_periods else ""
            return f"(SELECT {EVENTS}.*, NULL AS days_away FROM {rows}{known})"
        at, sign = f"{EVENTS}.{quote(time)}", 1 if self.side == "history" else -1
        low, high = f"{snapshot}.as_of", f"{snapshot}.{self.bound}"
        if self.side == "history":
            low, high = high, low
        away = f"{sign} * (epoch({snapshot}.{CALENDAR}) - epoch({at}::timestamp)) / 86400"
        return f"(SELECT {EVENTS}.*, {away} AS days_away FROM {rows} AND {at} >= {low} AND {at} < {high})"


@dataclass(frozen=True)
class Feature:
    """One number of the tabular vector."""

    config: FeatureConfig
    window: Window
    value: str | None
    """Value of the `per` expression that it counts for."""

    @property
    def name(self) -> str:
        """See `FeatureConfig.number_name`."""
        return self.config.number_name(self.window.days if self.config.windows else None, self.value)


def features(config: DataConfig, fitted: Fitted) -> list[Feature]:
    """The numbers of the tabular vector, in their order."""
    vocabularies = fitted.definition.vocabularies
    return [
        Feature(feature, window, value)
        for feature in config.features
        for window in feature_windows(config, feature)
        for value in ((None,) if feature.per is None else vocabularies[feature.name])
    ]


def all_windows(config: DataConfig) -> list[tuple[Side, int]]:
    """Side and days of every window, each once."""
    found: dict[tuple[Side, int], None] = {
        ("history", config.snapshots.history_days): None,
        ("future", config.snapshots.future_days): None,
    }
    found |= {("history", days): None for feature in config.features for days in feature.windows or ()}
    return list(found)


def feature_windows(config: DataConfig, feature: FeatureConfig) -> list[Window]:
    """The history windows of a feature; `per` vocabularies come from the longest."""
    days = feature.windows or (config.snapshots.history_days,)
    return [Window(feature.table, "history", d) for d in days]


def label_window(config: DataConfig, label: LabelConfig) -> Window:
    """The future window of a label."""
    return Window(label.table, "future", config.snapshots.future_days)


def label_query(database: Database, config: DataConfig, label: LabelConfig) -> str:
    """Build a query that gives `row`, `c0` (the label's value) and `c1` (whether it is defined), for every snapshot."""
    window = label_window(config, label)
    return aggregate(window, database.tables[label.table], [label.sql, label.defined_if or "true"])


def aggregate(window: Window, keys: Keys, expressions: Sequence[str]) -> str:
    """Build a query that gives every snapshot's `row` and one column per expression: c0, c1, ..."""
    columns = ", ".join(f"({expression}) AS c{i}" for i, expression in enumerate(expressions))
    return (
        f"SELECT {SNAPSHOT}.row, x.* FROM snapshots AS {SNAPSHOT}, LATERAL (SELECT {columns}, count(*) AS rows "
        f"FROM {window.relation(keys, SNAPSHOT)} AS {EVENTS}) AS x"
    )


def aggregate_per(window: Window, keys: Keys, expression: str, per: str) -> str:
    """Build a query that gives `row`, `value` (text) and `c0` for each value that occurs in a snapshot's window."""
    row, value = quote(own("row")), quote(own("value"))
    rows = (
        f"SELECT {SNAPSHOT}.row AS {row}, {SNAPSHOT}.as_of AS as_of, x.* FROM snapshots AS {SNAPSHOT}, "
        f"LATERAL (SELECT *, ({per})::varchar AS {value} FROM {window.relation(keys, SNAPSHOT)} AS {EVENTS}) AS x"
    )
    return (
        f"SELECT {row} AS row, {value} AS value, ({expression}) AS c0 FROM ({rows}) AS {EVENTS} "
        f"WHERE {value} IS NOT NULL GROUP BY {row}, as_of, {value}"
    )


def create_features(database: Database, config: DataConfig, fitted: Fitted) -> None:
    """Create the table `features` (row, tabular: list of float)."""
    connection, wanted = database.connection, features(config, fitted)
    numbers: dict[int, str] = {}
    joins = []
    for position, (group, query) in enumerate(_queries(wanted, database.tables)):
        connection.execute(f"CREATE TEMP TABLE __f{position} AS {query}")
        joins.append(f"LEFT JOIN __f{position} USING (row)")
        for i, index in enumerate(group):
            numbers[index] = (
                f"coalesce({as_float(f'__f{position}.c{i}')}, {as_float(repr(wanted[index].config.empty))})"
            )
    listed = ", ".join(numbers[i] for i in range(len(wanted)))
    tabular = f"[{listed}]" if wanted else "[]::float[]"
    connection.execute(f"CREATE TABLE features AS SELECT row, {tabular} AS tabular FROM snapshots {' '.join(joins)}")


def _queries(wanted: list[Feature], keys: Mapping[str, Keys]) -> Iterator[tuple[list[int], str]]:
    """Yield queries that compute the features together, each with the positions of the features in its columns."""
    groups: dict[tuple[Window, str | None], list[int]] = {}
    for i, feature in enumerate(wanted):
        groups.setdefault((feature.window, feature.config.name if feature.value is not None else None), []).append(i)
    for (window, per), group in groups.items():
        first = wanted[group[0]].config
        if per is None or first.per is None:
            yield group, aggregate(window, keys[window.table], [wanted[i].config.sql for i in group])
            continue
        inner = aggregate_per(window, keys[window.table], first.sql, first.per)
        columns = ", ".join(
            f"max(c0::double) FILTER (value = {text(str(wanted[i].value))}) AS c{n}" for n, i in enumerate(group)
        )
        yield group, f"SELECT row, {columns} FROM ({inner}) GROUP BY row"


def create_labels(database: Database, config: DataConfig, fitted: Fitted) -> None:
    """Create the table `labels` (row and one nullable boolean per label)."""
    connection, columns, joins = database.connection, ["row"], []
    for position, (name, label) in enumerate(config.labels.items()):
        query = label_query(database, config, label)
        connection.execute(f"CREATE TEMP TABLE __l{position} AS {query}")
        joins.append(f"LEFT JOIN __l{position} USING (row)")
        answer = f"__l{position}.c0"
        if label.quantile is not None:
            # 32 bits: sums of the same numbers in another order are still equal, here and in `fit`
            comparison = ">=" if label.above_quantile is None else ">"
            answer = f"{as_float(answer)}::double {comparison} {fitted.thresholds[name]!r}::double"
        columns.append(f"CASE WHEN __l{position}.c1 THEN coalesce({answer}, false) END AS {quote(name)}")
    connection.execute(f"CREATE TABLE labels AS SELECT {', '.join(columns)} FROM snapshots {' '.join(joins)}")


def check_aggregates(database: Database, config: DataConfig) -> None:
    """Parse and bind every feature's and label's SQL against the tables, which may be empty.

    Raises:
        InputError: naming the key, with DuckDB's reason.
    """
    for i, feature in enumerate(config.features):
        where, keys = f"data.features.{i} ({feature.name})", database.tables[feature.table]
        window = feature_windows(config, feature)[0]
        _check(database, f"{where}.sql", window, aggregate(window, keys, [feature.sql]), feature.sql, "a number")
        if feature.per is not None:
            query = f"SELECT c0 FROM ({aggregate_per(window, keys, 'count(*)', feature.per)})"
            _check(database, f"{where}.per", window, query, feature.per, None)
    for name, label in config.labels.items():
        window, keys = label_window(config, label), database.tables[label.table]
        for key, sql in (("sql", label.sql), ("defined_if", label.defined_if)):
            if sql is not None:
                kind = "a number" if key == "sql" and label.quantile is not None else "true or false"
                _check(database, f"data.labels.{name}.{key}", window, aggregate(window, keys, [sql]), sql, kind)


def _check(database: Database, key: str, window: Window, query: str, expression: str, kind: str | None) -> None:
    """Refuse an expression that is not allowed, or gives something else than `kind`; None: anything."""
    connection = database.connection
    check_expressions(connection, {key: expression})
    columns = database.columns(window.table)
    if ours := columns_in(connection, expression) & SNAPSHOT_COLUMNS - {column.lower() for column in columns}:
        raise InputError(
            f"{key}: `{expression}`: table '{window.table}' has no column '{min(ours)}'; its columns are: "
            f"{', '.join(columns)}"
        )
    try:
        found = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {query}").fetchall()}["c0"]
    except duckdb.Error as error:
        raise InputError(f"{key}: `{expression}` does not fit the table: {reason(error)}") from None
    fits = {
        "a number": is_number(found) or (found == "BOOLEAN" and ".features" in key),
        "true or false": found == "BOOLEAN",
        None: True,
    }
    if not fits[kind]:
        hint = "are the types of its columns right?"
        if kind == "true or false" and is_number(found):
            hint = "compare it with something, or give a quantile"
        raise InputError(f"{key}: `{expression}` must give {kind}, but gives {found}; {hint}")

"""Event sequences: one list of events per modality and snapshot, the newest K of them, oldest first."""

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import SNAPSHOT, Window
from ray_ggsm.data.config import DataConfig, ModalityConfig
from ray_ggsm.data.database import Database
from ray_ggsm.data.sources.part import RECORD
from ray_ggsm.data.sources.source import FILE, Keys, shown
from ray_ggsm.data.sql import as_float, check_expressions, quote, reason, text
from ray_ggsm.data.text_template import template_parts

EVENT = "{'time': time, 'text': text, 'amount': amount}"


def create_events(database: Database, config: DataConfig) -> None:
    """Create per modality the table `event:NAME` (user_id, time, text, amount); unusable events are rejected."""
    for name, modality in config.modalities.items():
        user, time = database.tables[modality.table]
        events = quote(f"event:{name}")
        rendered = f"trim(regexp_replace({_rendered(database, modality)}, '\\s+', ' ', 'g'))"
        place = f"{quote(FILE)} AS file, {quote(RECORD)} AS record"
        if not database.has(modality.table, FILE):
            place = f"{text(f'modality {name}')} AS file, NULL::BIGINT AS record"
        amount = f"({modality.amount or 'NULL'})"
        database.connection.execute(
            f"CREATE TABLE {events} AS SELECT {quote(user)} AS user_id, {quote(str(time))} AS time, "
            f"{rendered} AS text, {as_float(amount)} AS amount, {place} "
            f"FROM {quote(modality.table)} WHERE {modality.where or 'true'}"
        )
        unusable = {
            "null_text": "text IS NULL OR text = ''",
            "text_too_long": f"length(text) > {config.max_text_length}",
            "non_finite_number": "NOT isfinite(amount)",
        }
        for why, condition in unusable.items():
            database.connection.execute(
                f"INSERT INTO rejected SELECT {text(modality.table)}, NULL, user_id, NULL, file, record, {text(why)}, "
                f"{text(f'modality {name}, ')} || 'event at ' || time::varchar || ': ' || "
                f"coalesce(left(text, 100), 'NULL') FROM {events} WHERE {condition}"
            )
            database.connection.execute(f"DELETE FROM {events} WHERE {condition}")


def create_sequences(database: Database, config: DataConfig) -> dict[str, int]:
    """Create the table `sequences` (row, one list per modality, future) and return how many events each modality lost.

    `future` is NULL but for the rows of `config.splits_with_future`.
    """
    connection, cut, columns, joins = database.connection, {}, [], []
    for position, (name, modality) in enumerate(config.modalities.items()):
        window = Window(f"event:{name}", "history", config.snapshots.history_days)
        newest = "row_number() OVER (PARTITION BY row ORDER BY time DESC, text DESC, amount DESC)"
        connection.execute(f"CREATE TEMP TABLE __e AS SELECT *, {newest} AS age_rank FROM ({_joined(window)})")
        lost = connection.execute(f"SELECT count(*) FROM __e WHERE age_rank > {modality.keep}").fetchall()
        cut[name] = int(lost[0][0])
        connection.execute(
            f"CREATE TEMP TABLE __s{position} AS SELECT row, list({EVENT} ORDER BY age_rank DESC) AS events "
            f"FROM __e WHERE age_rank <= {modality.keep} GROUP BY row"
        )
        connection.execute("DROP TABLE __e")
        columns.append(f"coalesce(__s{position}.events, []) AS {quote(name)}")
        joins.append(f"LEFT JOIN __s{position} USING (row)")
    connection.execute(f"CREATE TEMP TABLE __future AS {_future(config)}")
    connection.execute(
        f"CREATE TABLE sequences AS SELECT row, {', '.join(columns)}, coalesce(__future.events, []) AS future "
        f"FROM snapshots {' '.join(joins)} LEFT JOIN __future USING (row)"
    )
    return cut


def check_modalities(database: Database, config: DataConfig) -> None:
    """Bind every modality's columns and expressions against the tables, which may be empty.

    Raises:
        InputError: naming the key, with DuckDB's reason.
    """
    for name, modality in config.modalities.items():
        where = f"data.modalities.{name}"
        if database.tables[modality.table].time is None:
            raise InputError(
                f"{where}.table: table '{modality.table}' has no time column, so it holds no events; give it `time`"
            )
        columns = database.columns(modality.table)
        for field in _template_columns(f"{where}.text", modality.text):
            if field not in columns:
                raise InputError(
                    f"{where}.text: table '{modality.table}' has no column '{field}'; its columns are: "
                    f"{', '.join(columns)}"
                )
        for key, sql in (("where", modality.where), ("amount", modality.amount)):
            if sql is not None:
                kind = "boolean" if key == "where" else "double"
                check_row_expression(database.connection, f"{where}.{key}", modality.table, sql, kind)


def check_row_expression(connection: duckdb.DuckDBPyConnection, key: str, table: str, sql: str, kind: str) -> None:
    """Refuse an expression that cannot be computed for each row of a table as this type."""
    check_expressions(connection, {key: sql})
    try:
        # an aggregate is no valid condition, and only what casts implicitly is a boolean or a number
        connection.execute(f"DESCRIBE SELECT 1 FROM {quote(table)} WHERE ({sql}) IS NOT NULL")
        found = str(connection.execute(f"DESCRIBE SELECT ({sql}) AS x FROM {quote(table)}").fetchall()[0][1])
    except duckdb.Error as error:
        raise InputError(f"{key}: `{sql}` does not fit table '{table}': {reason(error)}") from None
    if (kind == "boolean") != (found == "BOOLEAN") or found.startswith(("VARCHAR", "TIMESTAMP", "DATE")):
        wanted = "true or false" if kind == "boolean" else "a number"
        raise InputError(f"{key}: `{sql}` must give {wanted}, but gives {found}; see data.source.tables.{table}.types")


def _joined(window: Window) -> str:
    events = window.relation(Keys("user_id", "time"), SNAPSHOT)
    return (
        f"SELECT {SNAPSHOT}.row, {SNAPSHOT}.split, e.time, e.text, e.amount "
        f"FROM snapshots AS {SNAPSHOT}, LATERAL {events} AS e"
    )


def _future(config: DataConfig) -> str:
    days = config.snapshots.future_days
    splits = ", ".join(text(split) for split in config.splits_with_future)
    parts = [
        f"SELECT {text(name)} AS modality, * FROM ({_joined(Window(f'event:{name}', 'future', days))}) "
        f"WHERE split IN ({splits})"
        for name, modality in config.modalities.items()
        if modality.future
    ]
    if not parts:
        nothing = "NULL::STRUCT(modality VARCHAR, time TIMESTAMPTZ, text VARCHAR, amount FLOAT)[]"
        return f"SELECT row, {nothing} AS events FROM snapshots"
    event = "{'modality': modality, 'time': time, 'text': text, 'amount': amount}"
    events = f"list({event} ORDER BY time, modality, text, amount)"
    return f"SELECT row, {events} AS events FROM ({' UNION ALL '.join(parts)}) GROUP BY row"


def _rendered(database: Database, modality: ModalityConfig) -> str:
    """SQL for the text of a template: columns as they stand in the file; a column without a value leaves nothing."""
    parts = []
    for literal, column in template_parts(modality.text):
        if literal:
            parts.append(text(literal))
        if column is not None:
            place = shown(column) if database.has(modality.table, shown(column)) else column
            parts.append(f"coalesce({quote(place)}::varchar, '')")
    return " || ".join(parts)


def _template_columns(key: str, template: str) -> list[str]:
    """The columns of a template, which has at least one."""
    try:
        found = [column for _, column in template_parts(template) if column is not None]
    except ValueError as error:
        raise InputError(f"{key}: '{template}' is no template: {error}") from None
    if not found:
        raise InputError(f"{key}: '{template}' names no column; write columns as {{column}}")
    return found

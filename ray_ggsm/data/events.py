"""Event sequences: one list of events per modality and snapshot, the newest K of them, oldest first."""

import string

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import Window
from ray_ggsm.data.config import DataConfig, ModalityConfig
from ray_ggsm.data.database import Database
from ray_ggsm.data.sources.source import Keys
from ray_ggsm.data.sql import check_expressions, quote, reason, text

EVENT = "{'time': time, 'text': text, 'amount': amount}"


def create_events(database: Database, config: DataConfig) -> None:
    """Create per modality the table `event:NAME` (user_id, time, text, amount); unusable events are rejected."""
    for name, modality in config.modalities.items():
        user, time = database.tables[modality.table]
        rendered = f"trim(regexp_replace({_template(modality)}, '\\s+', ' ', 'g'))"
        database.connection.execute(
            f"CREATE TABLE {quote('event:' + name)} AS SELECT {quote(user)} AS user_id, {quote(str(time))} AS time, "
            f"{rendered} AS text, ({modality.amount or 'NULL'})::float AS amount FROM {quote(modality.table)} "
            f"WHERE {modality.where or 'true'}"
        )
        unusable = {
            "null_text": "text IS NULL OR text = ''",
            "text_too_long": f"length(text) > {config.max_text_length}",
            "non_finite_number": "NOT isfinite(amount)",
        }
        for why, condition in unusable.items():
            database.connection.execute(
                f"INSERT INTO rejected SELECT {text(modality.table)}, NULL, user_id, NULL, "
                f"{text(f'modality {name}')}, {text(why)}, "
                f"'event at ' || time::varchar || ': ' || coalesce(left(text, 100), 'NULL') "
                f"FROM {quote('event:' + name)} WHERE {condition}"
            )
            database.connection.execute(f"DELETE FROM {quote('event:' + name)} WHERE {condition}")


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
        for field in _fields(where, modality.text):
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
    events = window.relation(Keys("user_id", "time"), "s")
    return f"SELECT s.row, s.split, e.time, e.text, e.amount FROM snapshots AS s, LATERAL {events} AS e"


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


def _template(modality: ModalityConfig) -> str:
    """Turn the text template into a SQL expression, in which a NULL column leaves nothing behind."""
    parts = []
    for literal, field, _, _ in string.Formatter().parse(modality.text):
        if literal:
            parts.append(text(literal))
        if field is not None:
            parts.append(f"coalesce({quote(field)}::varchar, '')")
    return " || ".join(parts)


def _fields(where: str, template: str) -> list[str]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"{where}.text: '{template}' is no template: {error}; write columns as {{column}}") from None
    fields = [field for _, field, _, _ in parsed if field is not None]
    if not all(fields) or any(form or conversion for _, _, form, conversion in parsed):
        raise InputError(f"{where}.text: '{template}' must name columns as {{column}}, without format or conversion")
    if not fields:
        raise InputError(f"{where}.text: '{template}' names no column; write columns as {{column}}")
    return fields

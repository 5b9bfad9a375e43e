"""Event sequences: one list of events per modality and snapshot, the newest K of them, oldest first."""

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import SNAPSHOT, Window
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import Database
from ray_ggsm.data.event_details import (
    PARTS_TYPE,
    common_fields,
    detail_columns,
    detail_names,
    detail_problems,
    rendered,
    says_nothing,
    with_parts,
)
from ray_ggsm.data.modality_config import ModalityConfig
from ray_ggsm.data.sources.column_types import is_number
from ray_ggsm.data.sources.part import RECORD
from ray_ggsm.data.sources.source import FILE, Keys
from ray_ggsm.data.sql import as_float, check_expressions, quote, reason, text
from ray_ggsm.data.text_template import template_parts


def create_events(database: Database, config: DataConfig) -> None:
    """Create per modality `event:NAME` (user_id, time, text, amount, and fields and parts where it has them).

    Unusable events are rejected, each for the first reason that applies.
    """
    for name, modality in config.modalities.items():
        user, time, _ = database.tables[modality.table]
        why = quote("why")
        columns = [f"{quote(user)} AS user_id", f"{quote(str(time))} AS time", f"{_text(database, modality)} AS text"]
        amount = as_float(f"({modality.amount or 'NULL'})")
        columns += [f"{amount} AS amount", *detail_columns(database, modality)]
        problems = [
            says_nothing(modality),
            ("text_too_long", f"length(text) > {config.max_text_length}"),
            ("non_finite_number", "NOT isfinite(amount)"),
            *detail_problems(modality, config.max_text_length),
        ]
        reasons = " ".join(f"WHEN {condition} THEN {text(reason)}" for reason, condition in problems)
        place = f"{quote(FILE)} AS file, {quote(RECORD)} AS record"
        if not database.has(modality.table, FILE):
            place = f"{text(f'modality {name}')} AS file, NULL::BIGINT AS record"
        events = f"FROM {quote(modality.table)} WHERE {modality.where or 'true'}"
        detail = f"{text(f'modality {name}, event at ')} || time::varchar || ': ' || coalesce(left(text, 100), 'NULL')"
        database.connection.execute(
            f"INSERT INTO rejected SELECT {text(modality.table)}, NULL, user_id, NULL, file, record, {why}, {detail} "
            f"FROM (SELECT *, CASE {reasons} END AS {why} FROM (SELECT {', '.join(columns)}, {place} {events})) "
            f"WHERE {why} IS NOT NULL"
        )
        good = f"FROM (SELECT {', '.join(columns)} {events}) WHERE (CASE {reasons} END) IS NULL"
        # texts cost less to make again than to keep; parts do not
        kind, chosen = ("VIEW", "*") if modality.parts is None else ("TABLE", with_parts(modality))
        database.connection.execute(f"CREATE {kind} {quote(f'event:{name}')} AS SELECT {chosen} {good}")


def create_sequences(database: Database, config: DataConfig) -> dict[str, int]:
    """Create the table `sequences` (row, one list per modality, future) and return how many events each modality lost.

    `future` is NULL but for the rows of `config.splits_with_future`.
    """
    connection, cut, columns, joins = database.connection, {}, [], []
    for position, (name, modality) in enumerate(config.modalities.items()):
        window = Window(f"event:{name}", "history", config.snapshots.history_days)
        values = _values(modality)
        newest = f"row_number() OVER (PARTITION BY row ORDER BY {', '.join(f'{value} DESC' for value in values)})"
        kept = f"age_rank <= {modality.keep}"
        connection.execute(
            f"CREATE TEMP TABLE __s{position} AS SELECT row, "
            f"list({_event(values)} ORDER BY age_rank DESC) FILTER ({kept}) AS events, "
            f"count(*) FILTER (NOT {kept}) AS lost "
            f"FROM (SELECT *, {newest} AS age_rank FROM ({_joined(window, values)})) GROUP BY row"
        )
        lost = connection.execute(f"SELECT coalesce(sum(lost), 0) FROM __s{position}").fetchall()
        cut[name] = int(lost[0][0])
        columns.append(f"coalesce(__s{position}.events, []) AS {quote(name)}")
        joins.append(f"LEFT JOIN __s{position} USING (row)")
    connection.execute(f"CREATE TEMP TABLE __future AS {_future(config)}")
    connection.execute(
        f"CREATE TABLE sequences AS SELECT row, {', '.join(columns)}, coalesce(__future.events, []) AS future "
        f"FROM snapshots {' '.join(joins)} LEFT JOIN __future USING (row)"
    )
    return cut


def _text(database: Database, modality: ModalityConfig) -> str:
    return "NULL::VARCHAR" if modality.text is None else rendered(database, modality.table, modality.text)


def _values(modality: ModalityConfig) -> list[str]:
    """The columns that make an event, in the order in which events of one user are sorted."""
    return ["time", "text", "amount", *detail_names(modality)]


def _event(values: list[str]) -> str:
    return f"{{{', '.join(f'{text(value)}: {value}' for value in values)}}}"


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
        texts = {"text": modality.text} | {f"fields.{n}.text": f.text for n, f in modality.fields.items()}
        for key, template in texts.items():
            if template is not None:
                _check_template(database, f"{where}.{key}", modality.table, template)
        numbers = {"amount": modality.amount} | {f"fields.{n}.number": f.number for n, f in modality.fields.items()}
        lists = {} if modality.parts is None else {"texts": modality.parts.texts, "weights": modality.parts.weights}
        expressions = [("where", modality.where, "boolean"), *((key, sql, "double") for key, sql in numbers.items())]
        expressions += [(f"parts.{key}", sql, key) for key, sql in lists.items()]
        for key, sql, kind in expressions:
            if sql is not None:
                check_row_expression(database.connection, f"{where}.{key}", modality.table, sql, kind)


def _check_template(database: Database, key: str, table: str, template: str) -> None:
    columns = database.columns(table)
    for column in _template_columns(key, template):
        if column not in columns:
            raise InputError(f"{key}: table '{table}' has no column '{column}'; its columns are: {', '.join(columns)}")


def check_row_expression(connection: duckdb.DuckDBPyConnection, key: str, table: str, sql: str, kind: str) -> None:
    """Refuse an expression that cannot be computed for each row of a table as this kind (see `_fits`)."""
    check_expressions(connection, {key: sql})
    try:
        # an aggregate is no valid condition, and only what casts implicitly is a boolean or a number
        connection.execute(f"DESCRIBE SELECT 1 FROM {quote(table)} WHERE ({sql}) IS NOT NULL")
        found = str(connection.execute(f"DESCRIBE SELECT ({sql}) AS x FROM {quote(table)}").fetchall()[0][1])
    except duckdb.Error as error:
        raise InputError(f"{key}: `{sql}` does not fit table '{table}': {reason(error)}") from None
    if not _fits(found, kind):
        wanted = {"boolean": "true or false", "double": "a number", "weights": "a list of numbers"}
        raise InputError(
            f"{key}: `{sql}` must give {wanted.get(kind, 'a list of texts')}, but gives {found}; see "
            f"data.source.tables.{table}.types"
        )


def _fits(found: str, kind: str) -> bool:
    """Whether a DuckDB type is a boolean, a number (`double`), or a list of `texts` or numbers (`weights`)."""
    if kind in ("texts", "weights"):
        return found == "VARCHAR[]" if kind == "texts" else found.endswith("[]") and _fits(found[:-2], "double")
    return found == "BOOLEAN" if kind == "boolean" else is_number(found)


def _joined(window: Window, values: list[str]) -> str:
    events = window.relation(Keys("user_id", "time"), SNAPSHOT)
    listed = ", ".join(f"e.{value}" for value in values)
    return f"SELECT {SNAPSHOT}.row, {SNAPSHOT}.split, {listed} FROM snapshots AS {SNAPSHOT}, LATERAL {events} AS e"


def _future(config: DataConfig) -> str:
    """SQL for `row` and `events`: all modalities in one list, whose events have the details that any of them has."""
    days = config.snapshots.future_days
    splits = ", ".join(text(split) for split in config.splits_with_future)
    modalities = config.future_modalities
    fields, has_parts = common_fields(modalities), any(m.parts is not None for m in modalities.values())
    details = [*(["fields"] if fields else []), *(["parts"] if has_parts else [])]
    parts = []
    for name, modality in modalities.items():
        columns = ["time", "text", "amount"]
        if fields:
            values = [
                f"{text(field)}: {f'fields[{text(field)}]' if field in modality.fields else f'NULL::{kind}'}"
                for field, kind in fields.items()
            ]
            columns.append(f"{{{', '.join(values)}}} AS fields")
        if has_parts:
            columns.append("parts" if modality.parts is not None else f"NULL::{PARTS_TYPE} AS parts")
        events = _joined(Window(f"event:{name}", "future", days), _values(modality))
        parts.append(
            f"SELECT {text(name)} AS modality, row, {', '.join(columns)} FROM ({events}) WHERE split IN ({splits})"
        )
    if not parts:
        nothing = "NULL::STRUCT(modality VARCHAR, time TIMESTAMPTZ, text VARCHAR, amount FLOAT)[]"
        return f"SELECT row, {nothing} AS events FROM snapshots"
    order = ["time", "modality", "text", "amount", *details]
    event = _event(["modality", "time", "text", "amount", *details])
    events = f"list({event} ORDER BY {', '.join(order)})"
    return f"SELECT row, {events} AS events FROM ({' UNION ALL '.join(parts)}) GROUP BY row"


def _template_columns(key: str, template: str) -> list[str]:
    """The columns of a template, which has at least one."""
    try:
        found = [column for _, column in template_parts(template) if column is not None]
    except ValueError as error:
        raise InputError(f"{key}: '{template}' is no template: {error}") from None
    if not found:
        raise InputError(f"{key}: '{template}' names no column; write columns as {{column}}")
    return found

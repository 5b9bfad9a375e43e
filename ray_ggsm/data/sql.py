"""SQL text: quoting, shards, and the check that an expression of the user's can do nothing but compute.

An expression comes from a config file, so it is parsed before it is used: exactly one expression, no statement, no
query inside it, no function that is not a pure one. Then it is bound against the real columns, and the database that
runs it has file and network access locked. What is not prevented: an expression that uses much memory or time.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from ray_ggsm.config import InputError

FORBIDDEN = {
    "SUBQUERY": "a query inside it",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA_REF": "a reference to a lambda",
}
CLOCK = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
"""These need no parentheses, so they look like columns."""


def quote(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string literal in SQL."""
    return "'" + value.replace("'", "''") + "'"


def reason(error: duckdb.Error) -> str:
    """DuckDB's message in one line, without its list of candidates."""
    message = str(error).split("\nLINE ")[0].split("\n\tCandidate functions")[0]
    return re.sub(r"\s+", " ", message).strip()[:500]


def shard_condition(user: str, shard: int, shards: int) -> str:
    """True for the users of a shard; rows without a user belong to shard 0."""
    if shards == 1:
        return "true"
    user = f"nullif(trim({quote(user)}::varchar), '')"
    return f"coalesce(md5_number_lower({user}) % {shards}, 0) = {shard}"


def check_expressions(connection: duckdb.DuckDBPyConnection, expressions: Mapping[str, str]) -> None:
    """Refuse whatever is not one pure expression. The config key of each names it in errors.

    Raises:
        InputError: with DuckDB's reason or with what is not allowed.
    """
    impure = _impure_functions(connection)
    skeleton = _parse(connection, "1")["statements"][0]["node"]
    for key, expression in expressions.items():
        parsed = _parse(connection, expression)
        if parsed["error"]:
            raise InputError(f"{key}: `{expression}` is no SQL expression: {' '.join(parsed['error_message'].split())}")
        node = parsed["statements"][0]["node"]
        outside = [part for part in node if part != "select_list" and node[part] != skeleton.get(part)]
        if len(parsed["statements"]) > 1 or outside or len(node["select_list"]) != 1:
            raise InputError(
                f"{key}: `{expression}` must be one expression, without commas, semicolons or clauses outside it"
            )
        for part in _walk(node["select_list"]):
            _check_part(key, expression, part, impure)


def _parse(connection: duckdb.DuckDBPyConnection, expression: str) -> Any:
    return json.loads(connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {expression}"]).fetchall()[0][0])


def _check_part(key: str, expression: str, part: dict[str, Any], impure: set[str]) -> None:
    kind = part.get("class")
    if kind in FORBIDDEN:
        raise InputError(
            f"{key}: `{expression}` contains {FORBIDDEN[kind]}; only an expression over columns is allowed"
        )
    name = str(part.get("function_name") or ".".join(part.get("column_names", []))).lower()
    if name in (impure if kind == "FUNCTION" else CLOCK):
        raise InputError(f"{key}: `{expression}` uses {name}, which depends on more than the data; it is not allowed")


def _impure_functions(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """Functions and macros whose result depends on the clock, the session, chance or a query, and `unnest`."""
    rows = connection.execute(
        "SELECT lower(function_name) FROM duckdb_functions() WHERE coalesce(stability, 'CONSISTENT') <> 'CONSISTENT' "
        "OR regexp_matches(lower(macro_definition), 'current_|now\\(|select|nextval|pg_|getvariable')"
    ).fetchall()
    return {row[0] for row in rows} | {"unnest", "getenv"}


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _walk(part)

"""SQL text: quoting, shards, and the check that an expression of the user's can do nothing but compute.

An expression comes from a config file, so it is parsed before it is used: exactly one expression, no statement, no
query inside it, and only functions of the list in `ray_ggsm.data.functions`. Then it is bound against the real
columns, and the database that runs it has file and network access locked. What is not prevented: an expression that
uses much memory or time.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.functions import SESSION_NAMES, SESSION_TYPES, objection

OWN = "\x1f"
LARGEST_FLOAT = "3.4028234663852886e38::DOUBLE"
EXPRESSIONS = {
    "CONSTANT",
    "COLUMN_REF",
    "FUNCTION",
    "LAMBDA",
    "CASE",
    "CAST",
    "TYPE",
    "COLLATE",
    "COMPARISON",
    "BETWEEN",
    "CONJUNCTION",
    "OPERATOR",
}
"""The parser's classes of expressions that may be used."""
OPERATIONS = {
    "OPERATOR_NOT",
    "OPERATOR_IS_NULL",
    "OPERATOR_IS_NOT_NULL",
    "OPERATOR_COALESCE",
    "OPERATOR_TRY",
    "COMPARE_IN",
    "COMPARE_NOT_IN",
    "ARRAY_CONSTRUCTOR",
    "ARRAY_EXTRACT",
    "ARRAY_SLICE",
    "STRUCT_EXTRACT",
}
"""Those of the class OPERATOR that may be used."""
FORBIDDEN = {
    "SUBQUERY": "a query inside it",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a reference by position",
}
"""What people call some of the others."""


def quote(name: str) -> str:
    """An identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def own(name: str) -> str:
    """A name that no column of the user's has: `ray_ggsm.data.sources` refuses columns that begin with this mark."""
    return OWN + name


def text(value: str) -> str:
    """A string literal in SQL."""
    return "'" + value.replace("'", "''") + "'"


def as_float(number: str) -> str:
    """SQL: a number as 32-bit float; infinite where it is too large for that, NULL for NaN."""
    wide = f"({number})::DOUBLE"
    return (
        f"(CASE WHEN isnan({wide}) THEN NULL WHEN abs({wide}) > {LARGEST_FLOAT} THEN sign({wide}) * 'inf'::FLOAT "
        f"ELSE {wide}::FLOAT END)"
    )


def reason(error: duckdb.Error) -> str:
    """DuckDB's message in one line, without its list of candidate functions and without names of this package."""
    message = str(error).split("\nLINE ")[0].split("\n\tCandidate functions")[0]
    message = re.sub(rf'"{OWN}[^"]*"(, )?', "", message)
    return re.sub(r"\s+", " ", message).strip()[:500]


def shard_condition(user: str, shard: int, shards: int) -> str:
    """True for the users of a shard; rows without a user belong to shard 0. `user` is SQL that gives its text."""
    if shards == 1:
        return "true"
    return f"coalesce(md5_number_lower({user}) % {shards}, 0) = {shard}"


def check_expressions(connection: duckdb.DuckDBPyConnection, expressions: Mapping[str, str]) -> None:
    """Refuse whatever is not one pure expression. The config key of each names it in errors.

    Raises:
        InputError: with DuckDB's reason or with what is not allowed.
    """
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
            _check_part(key, expression, part)


def columns_in(connection: duckdb.DuckDBPyConnection, expression: str) -> set[str]:
    """Names in an expression that may be columns, in lower case; none if it cannot be parsed."""
    parsed = _parse(connection, expression)
    if parsed["error"]:
        return set()
    parts = _walk(parsed["statements"])
    return {name.lower() for part in parts if part.get("class") == "COLUMN_REF" for name in part["column_names"]}


def _parse(connection: duckdb.DuckDBPyConnection, expression: str) -> Any:
    return json.loads(connection.execute("SELECT json_serialize_sql(?)", [f"SELECT {expression}"]).fetchall()[0][0])


def _check_part(key: str, expression: str, part: dict[str, Any]) -> None:
    kind = part.get("class", "CONSTANT")
    if kind not in EXPRESSIONS or (kind == "OPERATOR" and part["type"] not in OPERATIONS):
        found = FORBIDDEN.get(kind, str(part["type"]).lower().replace("_", " "))
        raise InputError(f"{key}: `{expression}` contains {found}; only an expression over columns is allowed")
    reason = None
    if kind == "FUNCTION":
        reason = objection(part["function_name"].lower(), len(part["arguments"]), bool(part["order_bys"]["orders"]))
    elif kind == "COLUMN_REF" and part["column_names"][-1].lower() in SESSION_NAMES:
        reason = f"{part['column_names'][-1].lower()}, which depends on more than the data"
    elif str(part.get("type_name", part.get("id"))).upper() in SESSION_TYPES:
        reason = "a time with an offset, which depends on more than the data: that of today"
    if reason is not None:
        raise InputError(f"{key}: `{expression}` uses {reason}")


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _walk(part)

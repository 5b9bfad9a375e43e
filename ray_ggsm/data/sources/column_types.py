"""The types of columns that expressions use: declared, of the files, or what every text of the column stands for.

A guess is applied only if no value loses anything by it: whole numbers, else true/false, else numbers that a double
holds exactly as written, else text. Texts of templates do not depend on it: they show what stands in the file.
"""

from collections.abc import Mapping

from ray_ggsm.config import InputError
from ray_ggsm.data.sources.guesses import NOTHING
from ray_ggsm.data.sources.times import iso
from ray_ggsm.data.sql import quote, text

Types = dict[str, dict[str, str]]
"""Table -> column -> DuckDB type."""

WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
NARROW = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
"""Whole numbers that are all BIGINTs: equal data have equal types, however they were written."""
FLOATING = ("FLOAT", "DOUBLE")
INSTANT = "TIMESTAMP WITH TIME ZONE"
PLAIN_WHOLE, FRACTION = r"[-+]?\d+(\.0*)?", r"\.(\d*)"
PLAIN_TIMES = {
    "DATE": r"\d{4}-\d{1,2}-\d{1,2}",
    "TIMESTAMP": r"\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d{1,6})?)?)?",
}
"""Texts without an offset, as declared types take them."""


def unified(where: str, column: str, kinds: Mapping[str, str]) -> str:
    """One type for a column that files of known types have.

    Args:
        where: config key of the table, for errors.
        column: name of the column.
        kinds: type -> a file that has it.

    Raises:
        InputError: the types cannot stand for each other.
    """
    kinds = {kind: file for kind, file in kinds.items() if kind != NOTHING}
    if all(kind in NARROW for kind in kinds) and kinds:
        return "BIGINT"
    if len(kinds) <= 1:
        return next(iter(kinds), "VARCHAR")
    if all(kind in WHOLE or (kind.startswith("DECIMAL") and kind.endswith(",0)")) for kind in kinds):
        return "HUGEINT"
    if all(kind in WHOLE or kind in FLOATING or kind.startswith("DECIMAL") for kind in kinds):
        return "DOUBLE"
    (one, first), (other, second) = list(kinds.items())[:2]
    raise InputError(
        f"{where}.types: column '{column}' is {one} in {first} and {other} in {second}; say what it shall be, for "
        f"example types: {{{column}: {'double' if 'DOUBLE' in kinds else 'varchar'}}}"
    )


def is_number(kind: str) -> bool:
    """Whether a DuckDB type is one of numbers."""
    return kind in (*WHOLE, "UHUGEINT", *FLOATING) or kind.startswith("DECIMAL")


def stands_for(given: str, wanted: str) -> bool:
    """Whether a column of a file may hold values of a type; numbers of all kinds may, where each value fits."""
    return given in (wanted, NOTHING) or (is_number(given) and is_number(wanted))


def converted(column: str, given: str, wanted: str, zone: str) -> str:
    """SQL: the value of a column as another type, NULL where it is none; NaN is no value.

    `zone` is the time zone of times without one.
    """
    value = quote(column)
    result = value if given == wanted else _cast(value, given, wanted, zone)
    if wanted.upper() in FLOATING:
        return f"(CASE WHEN NOT isnan({result}) THEN {result} END)"
    return result


def is_unusable(column: str, given: str, wanted: str, zone: str) -> list[tuple[str, str]]:
    """SQL conditions of values that cost their row, each with its reason."""
    value = quote(column)
    result, found = _cast(value, given, wanted, zone), []
    if wanted.upper() in FLOATING:
        found.append((f"isinf({result})", "non_finite_number"))
    if given == wanted:
        return found
    is_value = f"NOT isnan({value})" if given in FLOATING else f"trim({value}::VARCHAR) <> ''"
    found.append((f"{value} IS NOT NULL AND {is_value} AND {result} IS NULL", "bad_value"))
    found += [(f"{value} IS NOT NULL AND {sql}", "bad_value") for sql in _loses(value, given, wanted, result)]
    return found


def _cast(value: str, given: str, wanted: str, zone: str) -> str:
    """SQL: a value as another type, NULL where it is none."""
    cast = f"try_cast({value} AS {wanted})"
    if given == "VARCHAR" and wanted.endswith("[]"):  # lists of JSON lines
        return f"coalesce(try_cast(try_cast({value} AS JSON) AS {wanted}), {cast})"
    if wanted == INSTANT and given == "VARCHAR":
        return iso(f"trim({value})", text(zone))
    if wanted == INSTANT and (given.startswith("TIMESTAMP") or given == "DATE"):
        return f"timezone({text(zone)}, {value}::TIMESTAMP)"
    return cast


def _loses(value: str, given: str, wanted: str, result: str) -> list[str]:
    """SQL conditions of values that a cast would change: 0.15 is no whole number, and a date has no time of day."""
    differs = f"{result}::DOUBLE <> try_cast({value} AS DOUBLE)"
    has_exponent = f"regexp_matches({value}, '[eE]')"
    if given != "VARCHAR":
        if wanted == "DOUBLE" and (given in WHOLE or given.startswith("DECIMAL")):
            return [f"try_cast({result} AS {'HUGEINT' if given in WHOLE else given}) IS DISTINCT FROM {value}"]
        if wanted == "DATE":
            return [f"{result}::TIMESTAMP <> try_cast({value} AS TIMESTAMP)"]
        return [differs] if wanted in WHOLE or wanted.startswith("DECIMAL") else []
    if wanted in WHOLE:
        small = f"{has_exponent} AND NOT ({differs}) AND abs({result}) < {2**53}"
        return [f"NOT (regexp_full_match(trim({value}), {text(PLAIN_WHOLE)}) OR ({small}))"]
    if wanted.startswith("DECIMAL"):
        scale = int(wanted.removesuffix(")").split(",")[-1])
        digits = f"length(rtrim(regexp_extract({value}, {text(FRACTION)}, 1), '0'))"
        return [f"CASE WHEN {has_exponent} THEN {differs} ELSE {digits} > {scale} END"]
    if wanted in PLAIN_TIMES:  # these would drop an offset, and a date the time of day
        return [f"NOT regexp_full_match(trim({value}), {text(PLAIN_TIMES[wanted])})"]
    return []


def as_user(column: str, kind: str) -> str:
    """SQL: the user as text without spaces around it, NULL if there is none."""
    value = quote(column)
    if kind in FLOATING:
        exact = 2**24 if kind == "FLOAT" else 2**53
        problem = text(
            f"column '{column}' holds users as floating numbers, and one of them is not whole or too large to be told "
            "apart from others; write users as texts or whole numbers. It is "
        )
        whole = f"abs({value}) < {exact} AND {value} = trunc({value})"
        return (
            f"(CASE WHEN {value} IS NULL OR isnan({value}) THEN NULL WHEN {whole} THEN {value}::BIGINT::VARCHAR "
            f"ELSE error({problem} || {value}::VARCHAR) END)"
        )
    if kind.startswith("DECIMAL"):
        problem = text(f"column '{column}' holds users as decimal numbers, and one of them is not whole: ")
        return (
            f"(CASE WHEN {value} = trunc({value}) OR {value} IS NULL THEN {value}::HUGEINT::VARCHAR "
            f"ELSE error({problem} || {value}::VARCHAR) END)"
        )
    shown = f"try(decode({value}))" if kind == "BLOB" else f"{value}::VARCHAR"
    return f"nullif(trim({shown}), '')"

"""Time columns -> instants. What is not understood as a whole is no time."""

import zoneinfo

from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sql import quote, text

MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
ISO = (
    r"(\d{4}-\d{1,2}-\d{1,2})(?:(?:[T ]|\s+)(\d{1,2}:\d{2}(?::\d{2})?)([.,]\d+)?\s*(?i:(AM|PM))?"
    r"\s*([Zz]|[-+]\d{2}(?::?\d{2})?|[A-Za-z][A-Za-z0-9_+/-]*)?)?"
)
"""Day; time to the second, its fraction, AM or PM; zone. The last three may be missing, or all but the day."""
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UINTEGER", "UBIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")


def instant(where: str, file: str, table: TableConfig, kind: str) -> str:
    """SQL: a time column as TIMESTAMPTZ, NULL where it cannot be read.

    Args:
        where: config key of the table, for errors.
        file: the file, for errors.
        table: names the column, its format and the time zone of times without one.
        kind: DuckDB type of the column in this file.

    Raises:
        InputError: the type holds no times, or needs a `time_format`.
    """
    column, zone = quote(str(table.time)), text(table.timezone)
    is_text, is_number = kind in ("VARCHAR", "BLOB", "NULL"), kind.startswith(NUMBERS)
    if kind == "BLOB":
        column = f"try(decode({column}))"
    if table.time_format in MICROSECONDS and (is_text or is_number):
        scale = MICROSECONDS[table.time_format]
        return f"try(make_timestamptz(try_cast(round(try_cast({column} AS DOUBLE) * {scale}) AS BIGINT)))"
    if table.time_format == "iso":
        if kind.startswith("TIMESTAMP WITH TIME ZONE"):
            return column
        if kind.startswith("TIMESTAMP") or kind == "DATE":
            return f"timezone({zone}, {column}::TIMESTAMP)"
        if is_text:
            return _iso(f"trim({column})", zone)
    elif table.time_format not in MICROSECONDS and is_text:
        parsed = f"try_strptime({column}, {text(table.time_format)})"
        pattern = table.time_format.replace("%%", "")
        return parsed if "%z" in pattern or "%Z" in pattern else f"timezone({zone}, {parsed})"
    hint = "say what the number means: seconds, milliseconds or microseconds" if is_number else "it needs none"
    if not (is_number or kind.startswith(("TIMESTAMP", "DATE"))):
        hint = "expected times, texts or numbers"
    raise InputError(
        f"{where}.time_format: '{table.time_format}' does not fit column '{table.time}' of {file}, which is "
        f"{kind}; {hint}"
    )


def _iso(value: str, zone: str) -> str:
    """A text such as 2024-02-27, 2024-02-27T08:15:00.5Z, 2024-02-27 8:15 PM Europe/Berlin."""
    groups = ", ".join(f"'{name}'" for name in ("day", "clock", "fraction", "half", "zone"))
    part = f"regexp_extract({value}, {text(ISO)}, [{groups}])"
    half = f"upper({part}.half)"
    hour = f"split_part({part}.clock, ':', 1)::INTEGER"
    twelve = f"({hour} BETWEEN 1 AND 12)"
    shifted = f"(CASE {half} WHEN 'AM' THEN {hour} % 12 WHEN 'PM' THEN {hour} % 12 + 12 ELSE {hour} END)"
    rest = f"substr({part}.clock, strpos({part}.clock, ':'))"
    clock = f"(CASE WHEN {part}.clock = '' THEN '00:00' ELSE {shifted}::VARCHAR || {rest} END)"
    # six digits: a finer fraction is cut off, so that no time moves into the next day
    fraction = f"left(replace({part}.fraction, ',', '.'), 7)"
    local = f"try_cast({part}.day || ' ' || {clock} || {fraction} AS TIMESTAMP)"
    offset = f"regexp_full_match({part}.zone, '[-+].*')"
    named = f"lower({part}.zone) IN ({', '.join(text(name.lower()) for name in _zones())})"
    return (
        f"(CASE WHEN NOT regexp_full_match({value}, {text(ISO)}) THEN NULL "
        f"WHEN {half} <> '' AND NOT {twelve} THEN NULL "
        f"WHEN {part}.zone = '' THEN timezone({zone}, {local}) "
        f"WHEN lower({part}.zone) = 'z' THEN timezone('UTC', {local}) "
        f"WHEN {offset} THEN try_cast({local}::VARCHAR || {part}.zone AS TIMESTAMPTZ) "
        f"WHEN {named} THEN timezone({part}.zone, {local}) END)"
    )


def _zones() -> list[str]:
    """Names of time zones that mean one zone everywhere."""
    return sorted(zoneinfo.available_timezones() - {"localtime", "Factory", "posixrules"})

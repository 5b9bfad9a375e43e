"""Time columns -> instants. What is not understood as a whole is no time."""

from ray_ggsm.config import InputError
from ray_ggsm.data.names import EARLIEST_YEAR, LATEST_YEAR, time_zones
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sql import own, quote, text

MICROSECONDS = {
    "days": 86_400_000_000,
    "hours": 3_600_000_000,
    "seconds": 1_000_000,
    "milliseconds": 1_000,
    "microseconds": 1,
}
"""Unit of a number -> microseconds."""
ISO = (
    r"(\d{4}-\d{1,2}-\d{1,2})(?:(?:[T ]|\s+)(\d{1,2}:\d{2}(?::\d{2})?)([.,]\d+)?\s*(?i:(AM|PM)\b)?"
    r"\s*([Zz]|[-+]\d{2}(?::?\d{2})?|[A-Za-z][A-Za-z0-9_+/-]*)?)?"
)
"""Day; time to the second, its fraction, AM or PM; zone. The last three may be missing, or all but the day."""
OFFSET = r"[-+]([01]\d|2[0-3])(:?[0-5]\d)?"
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
            return iso(f"trim({column})", zone)
    elif table.time_format not in MICROSECONDS and is_text:
        parsed = f"try_strptime({column}, {text(table.time_format)})"
        pattern = table.time_format.replace("%%", "")
        if "%Z" in pattern:
            return f"(CASE WHEN {_names_a_zone(column)} THEN ({parsed})::TIMESTAMPTZ END)"
        return f"({parsed})::TIMESTAMPTZ" if "%z" in pattern else f"timezone({zone}, ({parsed})::TIMESTAMP)"
    hint = f"say what the number means: one of {', '.join(MICROSECONDS)}" if is_number else "it needs none"
    if not (is_number or kind.startswith(("TIMESTAMP", "DATE"))):
        hint = "expected times, texts or numbers"
    raise InputError(
        f"{where}.time_format: '{table.time_format}' does not fit column '{table.time}' of {file}, which is "
        f"{kind}; {hint}"
    )


def is_plausible(time: str) -> str:
    """SQL: whether an instant lies in a year that events can have, in the session's time zone.

    It compares with two instants: the year of an instant takes several times as long to compute.
    """
    first, end = (f"timestamptz '{year}-01-01 00:00:00'" for year in (EARLIEST_YEAR, LATEST_YEAR + 1))
    return f"({time} >= {first} AND {time} < {end})"


def iso(value: str, zone: str) -> str:
    """SQL: the instant of a text such as 2024-02-27, 2024-02-27T08:15:00.5Z, 2024-02-27 8:15 PM Europe/Berlin.

    Its parts are bound to names by lambdas, or the expression would hold each of them many times.
    """
    p, t = quote(own("parts")), quote(own("time"))  # no column of the user's has such a name
    groups = ", ".join(text(name) for name in ("day", "clock", "fraction", "half", "zone"))
    part = f"regexp_extract({value}, {text(ISO)}, [{groups}])"
    hour = f"split_part({p}.clock, ':', 1)::INTEGER"
    shifted = f"(CASE upper({p}.half) WHEN '' THEN {hour} WHEN 'AM' THEN {hour} % 12 ELSE {hour} % 12 + 12 END)"
    rest = f"substr({p}.clock, strpos({p}.clock, ':'))"
    clock = f"(CASE WHEN {p}.clock = '' THEN '00:00' ELSE {shifted}::VARCHAR || {rest} END)"
    # six digits: a finer fraction is cut off, so that no time moves into the next day
    fraction = f"left(replace({p}.fraction, ',', '.'), 7)"
    local = f"try_cast({p}.day || ' ' || {clock} || {fraction} AS TIMESTAMP)"
    zones = _names()
    # list_transform(...)[1] is DuckDB's way to give a value a name
    named = f"list_transform([{{'local': {local}, 'zone': {p}.zone}}], lambda {t}: {_in_zone(t, zone, zones)})[1]"
    understood = f"regexp_full_match({value}, {text(ISO)}) AND ({p}.half = '' OR {hour} BETWEEN 1 AND 12)"
    return f"list_transform([{part}], lambda {p}: CASE WHEN {understood} THEN {named} END)[1]"


def _in_zone(time: str, zone: str, zones: str) -> str:
    """SQL: the instant of a struct (local, zone), with the zone of texts that name none, and the names of all zones."""
    return (
        f"CASE WHEN {time}.zone = '' THEN timezone({zone}, {time}.local) "
        f"WHEN lower({time}.zone) = 'z' THEN timezone('UTC', {time}.local) "
        f"WHEN {time}.zone[1] IN ('+', '-') THEN CASE WHEN regexp_full_match({time}.zone, {text(OFFSET)}) "
        f"THEN try_cast({time}.local::VARCHAR || {time}.zone AS TIMESTAMPTZ) END "
        f"WHEN lower({time}.zone) IN ({zones}) THEN timezone({time}.zone, {time}.local) END"
    )


def _names_a_zone(column: str) -> str:
    """SQL: whether a word of the text is a zone; `strptime` also knows names that mean several zones, such as BST."""
    return f"list_has_any([{_names()}], regexp_split_to_array(lower({column}), '[^a-z0-9_+/-]+'))"


def _names() -> str:
    """SQL: the names of time zones that mean one zone everywhere, in lower case."""
    return ", ".join(text(name.lower()) for name in sorted(time_zones()))

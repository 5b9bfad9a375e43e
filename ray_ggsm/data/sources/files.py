"""The user's own event files as tables: users become text, times become instants, unreadable rows are set aside.

User, time and declared columns of a CSV file are read as text and converted here, so a bad value costs one row, never
the run; every rejected row is kept with its file, its reason and what stood there.
"""

import csv
import difflib
import glob
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import fsspec

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.source import Keys, State
from ray_ggsm.data.sql import quote, reason, shard_condition, text

MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
OFFSET = r":\d{2}.*(Z|z|[+-]\d{2}(:?\d{2})?)$"
FILE = "__file"
GUESS_LINES = 10_000
GUESS_SHARE = 0.95
GUESSES = {
    "bigint": r"-?(0|[1-9]\d{0,17})",
    "double": r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?",
    "boolean": "(?i:true|false)",
}
"""Texts that stand for a type; '007' is no number."""


@dataclass(frozen=True)
class EventFiles:
    """The source `files`."""

    configs: Mapping[str, TableConfig]
    """Files and columns of each table."""
    numbers: Mapping[str, Collection[str]]
    """Per table, columns that must be numbers."""

    def tables(self) -> dict[str, Keys]:
        """Every table of the config."""
        return {name: Keys(table.user, table.time) for name, table in self.configs.items()}

    def load(self, connection: duckdb.DuckDBPyConnection, shard: int, shards: int, empty: bool) -> None:
        """Create the tables with the rows of one shard.

        Raises:
            InputError: no file matches, or a column is missing or has no usable type.
        """
        for name, table in self.configs.items():
            types = {**dict.fromkeys(self.numbers.get(name, ()), "double"), **table.types}
            try:
                _load_table(connection, name, table, types, shard_condition(table.user, shard, shards), empty)
                if shard == 0 and not empty and not _is_parquet(table.files):
                    _report_lines(connection, name)
            except duckdb.Error as error:
                raise InputError(f"data.source.tables.{name}: {table.files} cannot be read: {reason(error)}") from None

    def state(self) -> State:
        """Per table, the files with their size and modification time or entity tag."""
        return {
            name: {file: _stamp(file) for file in matching_files(name, table)} for name, table in self.configs.items()
        }


def matching_files(name: str, table: TableConfig) -> list[str]:
    """The files of a table, sorted; InputError when there are none."""
    if "://" in table.files:
        fs, path = storage.filesystem(table.files)
        fs.invalidate_cache()
        found = [fs.unstrip_protocol(file) for file in fs.glob(path)]
    else:
        found = glob.glob(table.files, recursive=True)
    if not found:
        raise InputError(f"data.source.tables.{name}.files: no file matches '{table.files}'")
    return sorted(found)


def _is_parquet(files: str) -> bool:
    return files.lower().endswith((".parquet", ".pq"))


def _stamp(file: str) -> str:
    fs, path = storage.filesystem(file)
    info = fs.info(path)
    return f"{info['size']} bytes, {info.get('ETag') or info.get('mtime')}"


def _load_table(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    table: TableConfig,
    types: Mapping[str, str],
    mine: str,
    empty: bool,
) -> None:
    files = matching_files(name, table)
    if "://" in table.files:
        connection.register_filesystem(fsspec.filesystem(table.files.split("://")[0]))
    reader, columns, guessed = _reader(connection, name, table, files)
    _check_columns(name, table, types, list(columns))
    types = {c: kind for c, kind in {**guessed, **types}.items() if c not in (table.user, table.time)}
    converted, problems = _conversions(name, table, types, columns)
    replaced = ", ".join(f"{expression} AS {quote(column)}" for column, expression in converted.items())
    cases = " ".join(f"WHEN {condition} THEN {text(why)}" for condition, why, _ in problems)
    details = " ".join(
        f"WHEN {condition} THEN {text(column)} || ' = ' || coalesce(left({column}::varchar, 200), 'NULL')"
        for condition, _, column in problems
    )
    connection.execute(
        f"CREATE TABLE {quote(name)} AS SELECT * EXCLUDE ({FILE}) REPLACE ({replaced}), CASE {cases} END AS __reason, "
        f"CASE {details} END AS __detail, {FILE} AS __source FROM {reader} WHERE {mine}" + (" LIMIT 0" if empty else "")
    )
    connection.execute(
        f"INSERT INTO rejected SELECT {text(name)}, NULL, {quote(table.user)}, NULL, __source, __reason, __detail "
        f"FROM {quote(name)} WHERE __reason IS NOT NULL"
    )
    connection.execute(f"DELETE FROM {quote(name)} WHERE __reason IS NOT NULL")
    for column in ("__reason", "__detail", "__source"):
        connection.execute(f"ALTER TABLE {quote(name)} DROP COLUMN {column}")


def _conversions(
    name: str, table: TableConfig, types: Mapping[str, str], columns: Mapping[str, str]
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """How columns are converted (column -> SQL), and what makes a row unusable (condition, reason, quoted column)."""
    converted = {table.user: f"nullif(trim({quote(table.user)}::varchar), '')"}
    problems = [(f"{converted[table.user]} IS NULL", "missing_user", quote(table.user))]
    for column, kind in types.items():
        converted[column] = f"try_cast({quote(column)} AS {kind})"
        present = f"{quote(column)} IS NOT NULL AND trim({quote(column)}::varchar) <> ''"
        problems.append((f"{present} AND {converted[column]} IS NULL", "bad_value", quote(column)))
    if table.time is not None:
        converted[table.time] = _instant(name, table, columns[table.time])
        usable = f"year({converted[table.time]}) BETWEEN 1900 AND 2200"
        problems.append((f"{usable} IS NOT TRUE", "bad_time", quote(table.time)))
    return converted, problems


def _reader(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableConfig, files: list[str]
) -> tuple[str, dict[str, str], dict[str, str]]:
    """The table function that reads the files, its columns' types, and the types that CSV texts stand for."""
    listed = "[" + ", ".join(text(file) for file in files) + "]"
    if _is_parquet(table.files):
        reader = f"read_parquet({listed}, union_by_name = true, filename = '{FILE}')"
        described = connection.sql(f"DESCRIBE SELECT * EXCLUDE ({FILE}) FROM {reader}").fetchall()
        return reader, {row[0]: row[1] for row in described}, {}
    header = _header(connection, name, table, files)
    columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in header)
    nulls = ", ".join(text(value) for value in ("", *table.nulls))
    reader = (
        f"read_csv({listed}, auto_detect = false, header = true, columns = {{{columns}}}, delim = "
        f"{text(table.delimiter)}, "
        f"quote = {text(table.quote)}, escape = {text(table.quote)}, nullstr = [{nulls}], store_rejects = true, "
        f"filename = '{FILE}')"
    )
    return reader, dict.fromkeys(header, "VARCHAR"), _guess(connection, reader, header)


def _header(connection: duckdb.DuckDBPyConnection, name: str, table: TableConfig, files: list[str]) -> list[str]:
    """The column names of CSV files, which must be the same in all of them."""
    headers: dict[tuple[str, ...], str] = {}
    for file in files:
        # chr(31) separates nothing, so the whole first line is one value, whatever the compression
        line = (
            f"read_csv({text(file)}, auto_detect = false, header = false, columns = {{'line': 'VARCHAR'}}, "
            "delim = '\x1f', quote = '', ignore_errors = true)"
        )
        lines = [str(row[0]).removeprefix("\ufeff") for row in connection.execute(f"FROM {line} LIMIT 1").fetchall()]
        headers.setdefault(tuple(next(csv.reader(lines, **_dialect(table)), ())), file)
    if len(headers) > 1:
        (first, one), (second, other) = list(headers.items())[:2]
        raise InputError(
            f"data.source.tables.{name}.files: all files must have the same columns, but {one} has {', '.join(first)} "
            f"and {other} has {', '.join(second)}"
        )
    header = next(iter(headers))
    if len({column.lower() for column in header}) < len(header) or not all(header):
        raise InputError(
            f"data.source.tables.{name}.files: {files[0]} needs a first line with different column names, "
            f"found {header}"
        )
    return list(header)


def _dialect(table: TableConfig) -> dict[str, Any]:
    if table.quote:
        return {"delimiter": table.delimiter, "quotechar": table.quote}
    return {"delimiter": table.delimiter, "quoting": csv.QUOTE_NONE}


def _guess(connection: duckdb.DuckDBPyConnection, reader: str, columns: list[str]) -> dict[str, str]:
    """Which text columns hold numbers or true/false, by most values of the first lines; others stay text."""
    tests = []
    for column in map(quote, columns):
        shares = {kind: f"avg(regexp_full_match({column}, {text(pattern)})::int)" for kind, pattern in GUESSES.items()}
        cases = " ".join(f"WHEN {share} >= {GUESS_SHARE} THEN {text(kind)}" for kind, share in shares.items())
        tests.append(f"CASE {cases} END")
    kinds = connection.execute(f"SELECT {', '.join(tests)} FROM (FROM {reader} LIMIT {GUESS_LINES})").fetchall()[0]
    return {column: kind for column, kind in zip(columns, kinds, strict=True) if kind is not None}


def _check_columns(name: str, table: TableConfig, types: Mapping[str, str], columns: list[str]) -> None:
    where = f"data.source.tables.{name}"
    wanted = {f"{where}.user": table.user, f"{where}.time": table.time, **{f"{where}.types": c for c in types}}
    for key, column in wanted.items():
        if column is not None and column not in columns:
            near = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else "" if len(columns) > 1 else "is the delimiter right? "
            raise InputError(
                f"{key}: {table.files} has no column '{column}'; {hint}Its columns are: {', '.join(columns)}"
            )
    for column in columns:
        if column.lower() in ("as_of", "days_away"):
            raise InputError(f"{where}: column '{column}' of {table.files} has a reserved name; rename it in the files")


def _instant(name: str, table: TableConfig, kind: str) -> str:
    """The SQL expression that turns the time column into an instant, NULL where it cannot be read."""
    column = quote(str(table.time))
    zone = text(table.timezone)
    if table.time_format in MICROSECONDS:
        scale = MICROSECONDS[table.time_format]
        return f"try(make_timestamptz(try_cast(round(try_cast({column} AS double) * {scale}) AS bigint)))"
    if table.time_format != "iso":
        parsed = f"try_strptime({column}::varchar, {text(table.time_format)})"
        return parsed if "%z" in table.time_format else f"timezone({zone}, {parsed})"
    if kind.startswith("TIMESTAMP WITH TIME ZONE"):
        return column
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return f"timezone({zone}, {column}::timestamp)"
    if kind == "VARCHAR":
        return (
            f"CASE WHEN regexp_matches(trim({column}), {text(OFFSET)}) THEN try_cast(trim({column}) AS timestamptz) "
            f"ELSE timezone({zone}, try_cast(trim({column}) AS timestamp)) END"
        )
    raise InputError(
        f"data.source.tables.{name}.time_format: column '{table.time}' of {table.files} is {kind}; "
        "say what the number means: seconds, milliseconds or microseconds"
    )


def _report_lines(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Set aside lines that are no CSV rows; refuse an open quote, because it swallows the lines after it."""
    scans = "(SELECT DISTINCT scan_id, file_id, file_path FROM reject_scans)"
    rejects = f"(FROM reject_errors JOIN {scans} USING (scan_id, file_id))"
    swallowed = connection.execute(
        f"SELECT file_path, line FROM {rejects} WHERE error_type = 'UNQUOTED VALUE' AND csv_line LIKE '%\n%\n%' LIMIT 1"
    ).fetchall()
    if swallowed:
        raise InputError(
            f"data.source.tables.{name}: a quote that opens in line {swallowed[0][1]} of {swallowed[0][0]} is not "
            "closed there, and the lines after it would be lost; correct that line, or set quote: '' when the file "
            "quotes nothing"
        )
    connection.execute(
        f"INSERT INTO rejected SELECT {text(name)}, NULL, NULL, NULL, file_path || ':' || line, 'bad_line', "
        f"left(min(error_type || ': ' || error_message), 300) FROM {rejects} GROUP BY file_path, line"
    )
    connection.execute("DELETE FROM reject_errors")

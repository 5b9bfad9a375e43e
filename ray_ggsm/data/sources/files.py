"""The user's own event files as tables: users become text, times become instants, and rows that cannot be read are set aside.

User, time and declared columns of a CSV file are read as text and converted here, so a bad value costs one row, never
the run; every rejected row is kept with its file, its reason and what stood there.
"""

import difflib
import glob
from collections.abc import Collection, Mapping

import duckdb
import fsspec

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.config import FilesSource, TableConfig
from ray_ggsm.data.sql import quote, reason, shard_condition, text

MICROSECONDS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
OFFSET = r":\d{2}.*(Z|z|[+-]\d{2}(:?\d{2})?)$"
FILE = "__file"


def load(
    connection: duckdb.DuckDBPyConnection,
    source: FilesSource,
    numbers: Mapping[str, Collection[str]],
    shard: int,
    shards: int,
    empty: bool,
) -> None:
    """Create each table with the rows of one shard of users, and add what was rejected to the table `rejected`.

    Args:
        connection: a database with the table `rejected`.
        source: the tables' files and columns.
        numbers: per table, columns that must be numbers.
        shard: position of the shard; shard 0 also reports lines that cannot be attributed to a user.
        shards: number of shards.
        empty: only create the tables with their columns.

    Raises:
        InputError: no file matches, or a column is missing or has no usable type.
    """
    for name, table in source.tables.items():
        types = {**dict.fromkeys(numbers.get(name, ()), "double"), **table.types}
        try:
            _load_table(connection, name, table, types, shard_condition(table.user, shard, shards), empty)
            if shard == 0 and not empty:
                _report_lines(connection, name)
        except duckdb.Error as error:
            raise InputError(f"data.source.tables.{name}: {table.files} cannot be read: {reason(error)}") from None


def fingerprint(source: FilesSource) -> dict[str, dict[str, str]]:
    """Per table, the files with their size and modification time or entity tag; changes when an input changes."""
    return {name: {file: _stamp(file) for file in matching_files(name, table)} for name, table in source.tables.items()}


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


def _stamp(file: str) -> str:
    fs, path = storage.filesystem(file)
    info = fs.info(path)
    return f"{info['size']} bytes, {info.get('ETag') or info.get('mtime')}"


def _load_table(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableConfig, types: Mapping[str, str], mine: str, empty: bool
) -> None:
    files = matching_files(name, table)
    if "://" in table.files:
        connection.register_filesystem(fsspec.filesystem(table.files.split("://")[0]))
    reader, columns = _reader(connection, name, table, files, types)
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


def _reader(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableConfig, files: list[str], types: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """The DuckDB table function that reads the files, and the columns' types."""
    listed = "[" + ", ".join(text(file) for file in files) + "]"
    options = f"union_by_name = true, filename = '{FILE}'"
    if files[0].lower().endswith((".parquet", ".pq")):
        reader = f"read_parquet({listed}, {options})"
        columns = _columns(connection, reader)
    else:
        options += f", header = true, delim = {text(table.delimiter)}, quote = '\"', escape = '\"', strict_mode = false"
        columns = _columns(connection, f"read_csv({listed}, {options}, all_varchar = true)")
    _check_columns(name, table, types, [column for column in columns if column != FILE])
    if files[0].lower().endswith((".parquet", ".pq")):
        return reader, columns
    as_text = dict.fromkeys([table.user, *([table.time] if table.time else []), *types], "VARCHAR")
    forced = ", ".join(f"{text(column)}: '{kind}'" for column, kind in as_text.items())
    return f"read_csv({listed}, {options}, types = {{{forced}}}, store_rejects = true)", columns


def _columns(connection: duckdb.DuckDBPyConnection, reader: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.sql(f"DESCRIBE SELECT * FROM {reader}").fetchall()}


def _check_columns(name: str, table: TableConfig, types: Mapping[str, str], columns: list[str]) -> None:
    where = f"data.source.tables.{name}"
    wanted = {f"{where}.user": table.user, f"{where}.time": table.time, **{f"{where}.types": c for c in types}}
    for key, column in wanted.items():
        if column is not None and column not in columns:
            near = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else "" if len(columns) > 1 else "is the delimiter right? "
            raise InputError(f"{key}: {table.files} has no column '{column}'; {hint}Its columns are: {', '.join(columns)}")
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
    """Lines that are no CSV rows (ragged, bad quotes, invalid UTF-8), or whose value does not fit its column's type."""
    connection.execute(
        f"INSERT INTO rejected SELECT DISTINCT {text(name)}, NULL, NULL, NULL, file_path || ':' || line, 'bad_line', "
        "left(coalesce(column_name || ': ', '') || error_type || ': ' || error_message, 300) "
        "FROM reject_errors JOIN (SELECT DISTINCT scan_id, file_id, file_path FROM reject_scans) USING (scan_id, file_id)"
    )
    connection.execute("DELETE FROM reject_errors")

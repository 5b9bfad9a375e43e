"""Event files on their way into the store: what they are, and their rows by bucket. One Ray task takes some files.

Every record of a file gets a bucket by its user. Records without a user or a time go to the table of rejected records,
with file, line and reason, and so do lines that are no records.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import NotNow
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.column_types import INSTANT, as_user, converted, is_unusable
from ray_ggsm.data.sources.conversion import Conversion
from ray_ggsm.data.sources.files import EventFiles, stamp
from ray_ggsm.data.sources.guesses import guesses
from ray_ggsm.data.sources.json_part import JsonLines
from ray_ggsm.data.sources.parquet_part import Parquet
from ray_ggsm.data.sources.part import BadLine, Part
from ray_ggsm.data.sources.source import CREATE_REJECTED
from ray_ggsm.data.sources.table import FileTable, folder_value, literal
from ray_ggsm.data.sources.times import instant, is_plausible
from ray_ggsm.data.sql import own, quote, text
from ray_ggsm.data.store.columns import (
    BUCKET,
    DAY,
    FILE,
    RECORD,
    SEQUENCE,
    TIME_TEXT,
    arrow_schema,
)
from ray_ggsm.data.store.manifest import FileEntry, TableState, TextGuess
from ray_ggsm.data.store.names import Names
from ray_ggsm.data.store.rejected import newest, no_rejected, with_bucket


@dataclass(frozen=True)
class Look:
    """A file before its rows are read."""

    path: str
    digest: str
    stamp: str
    columns: Mapping[str, str] | None
    """Column -> DuckDB type; None: the file is empty."""
    is_text: bool
    """Whether its columns are texts without types."""
    is_json: bool
    """Whether objects may lack columns."""
    size: int
    """Bytes."""
    records: int | None = None
    """Number of its records, where each may hold several events; None: each is one."""


def look(name: str, config: TableConfig, paths: Sequence[str]) -> list[Look]:
    """The digests and the columns of some files.

    Raises:
        InputError: it cannot be read, or its columns have reserved names.
    """
    with duckdb.connect() as connection:
        return [_look(connection, name, config, path) for path in paths]


def _look(connection: duckdb.DuckDBPyConnection, name: str, config: TableConfig, path: str) -> Look:
    fs, place = storage.filesystem(path)
    before = stamp(path)
    with fs.open(place, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = fs.info(place)["size"]
    parts = FileTable(connection, name, config, files=(path,)).parts_or_none
    if not parts:
        return Look(path, digest, before, None, False, False, size)
    part, columns = parts[0]
    is_text, is_json = not isinstance(part, Parquet), isinstance(part, JsonLines)
    return Look(path, digest, before, columns, is_text, is_json, size, part.records)


@dataclass(frozen=True)
class Batch:
    """Some files of one table that one task takes."""

    name: str
    config: TableConfig
    state: TableState
    """Columns of the table in the store."""
    files: tuple[Look, ...]
    day: str | None
    sequence: int
    buckets: int
    max_events_per_user: int | None
    names: Names


@dataclass(frozen=True)
class Arrived:
    """The rows of a batch."""

    rows: pa.Table
    """With the columns of `row_schema` that are not the same for all of them, and BUCKET (int32)."""
    rejected: pa.Table
    """With the columns of `no_rejected`."""
    entries: tuple[FileEntry, ...]
    capped: int
    """Events beyond the most of a user."""
    not_taken: int
    """Records of forgotten users."""


def row_schema(state: TableState) -> pa.Schema:
    """The columns of a table's files."""
    times = {TIME_TEXT: "VARCHAR"} if state.time is not None else {}
    own_columns = {FILE: "VARCHAR", RECORD: "BIGINT", SEQUENCE: "BIGINT", DAY: "VARCHAR", **times}
    return arrow_schema({**state.columns, **own_columns})


def _arrived_schema(state: TableState) -> pa.Schema:
    """The columns of rows on their way: without those that are the same for all of a change."""
    fields = [field for field in row_schema(state) if field.name not in (SEQUENCE, DAY)]
    named = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([pa.field(FILE, named) if field.name == FILE else field for field in fields])


def _constant(value: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value], pa.string()))


def finished(rows: pa.Table, state: TableState, sequence: int, day: str | None) -> pa.Table:
    """Rows that have arrived as rows of the table: with what is the same for all of a change."""
    rows = rows.append_column(SEQUENCE, pa.repeat(pa.scalar(sequence, pa.int64()), len(rows)))
    rows = rows.append_column(DAY, pa.repeat(pa.scalar(day, pa.string()), len(rows)))
    return rows.select(row_schema(state).names)


def read(batch: Batch) -> Arrived:
    """The rows of some files.

    Raises:
        InputError: a file cannot be read.
        NotNow: a file has changed since it was looked at.
    """
    schema, tables, entries = _arrived_schema(batch.state), [], []
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(CREATE_REJECTED)
        table = FileTable(connection, batch.name, batch.config, files=tuple(f.path for f in batch.files))
        looks = {f.path: f for f in batch.files}
        for part, found_columns in table.parts_or_none:
            bad: list[BadLine] = []
            columns = _with_all_keys(part, found_columns, batch.state)
            found, guessed = table.read(part, lambda each: _rows(table, each, columns, batch, bad))  # noqa: B023
            table.reject_lines(part, bad)
            tables.append(found)
            if stamp(part.file) != looks[part.file].stamp:
                raise NotNow(f"{part.file} changed while it was read; start again when it is whole")
            rejected_here = _reasons(connection, part)
            entries.append(_entry(batch, looks.pop(part.file), len(found), rejected_here, guessed))
        entries += [_entry(batch, empty, 0, {}, {}) for empty in looks.values()]
        EventFiles({batch.name: batch.config}, {}).locate(connection)
        rejected = connection.sql(
            'SELECT "table", user_id, source, reason, detail FROM rejected ORDER BY ALL'
        ).to_arrow_table()
    found_rows = [t.select(schema.names).cast(schema) for t in tables]
    table_rows = pa.concat_tables(found_rows) if tables else schema.empty_table()
    arrived = len(table_rows) + len(rejected)
    table_rows = batch.names.taken(table_rows, batch.state.user)
    rejected = batch.names.shown(batch.names.taken(rejected.cast(no_rejected().schema), "user_id"))
    forgotten = arrived - len(table_rows) - len(rejected)
    rows, letters, capped = newest(table_rows, batch.name, batch.state, batch.max_events_per_user)
    return Arrived(
        with_bucket(rows, batch.state.user, batch.buckets),
        pa.concat_tables([rejected, letters]),
        tuple(entries),
        capped,
        forgotten,
    )


def _with_all_keys(part: Part, columns: Mapping[str, str], state: TableState) -> Mapping[str, str]:
    """The columns of a file; objects may have every key that the store knows, whatever other files of the task have."""
    return {**dict.fromkeys(state.columns, "VARCHAR"), **columns} if isinstance(part, JsonLines) else columns


def _rows(
    table: FileTable, part: Part, columns: Mapping[str, str], batch: Batch, bad: list[BadLine]
) -> tuple[pa.Table, dict[str, TextGuess]]:
    """The good rows of a file, and what its texts stand for; the others are in the table `rejected`."""
    bad.clear()
    connection, config, state = table.connection, batch.config, batch.state
    values, problems = _values(table, part, columns, state)
    folders = "".join(
        f", {literal(folder_value(part.file, name, table.where))} AS {quote(name)}" for name in config.partitions
    )
    needed = [c for c in columns if c in state.columns and c not in config.partitions]
    converted = Conversion(values[state.user], values, tuple(problems), ())
    why, what, arrived = quote(own("reason")), quote(own("detail")), quote(own("arrived"))
    with part.rows(connection, needed, bad) as rows:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {arrived} AS SELECT {converted.selected}, "
            f"{quote(own('record'))} AS {quote(RECORD)}, {converted.reason} AS {why}, {converted.detail} AS {what} "
            f"FROM (SELECT *{folders} FROM {rows})"
        )
    try:
        connection.execute(
            f"INSERT INTO rejected SELECT {text(batch.name)}, NULL, {quote(state.user)}, NULL, {text(part.file)}, "
            f"{quote(RECORD)}, {why}, {what} FROM {arrived} WHERE {why} IS NOT NULL"
        )
        texts = [column for column in state.texts if column in columns]
        guessed = guesses(connection, f"(FROM {arrived} WHERE {why} IS NULL)", texts)
        found = connection.sql(f"SELECT * EXCLUDE ({why}, {what}) FROM {arrived} WHERE {why} IS NULL").to_arrow_table()
    finally:
        connection.execute(f"DROP TABLE {arrived}")
    entries = {c: TextGuess(kinds=tuple(sorted(g.kinds)), values=g.values) for c, g in guessed.items()}
    return found.append_column(FILE, _constant(part.file, len(found))), entries


def _values(
    table: FileTable, part: Part, columns: Mapping[str, str], state: TableState
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """SQL of each column of the store, and the conditions under which a record is rejected, with reason and column."""
    config, zone = table.config, table.config.timezone
    user = as_user(config.user, columns[config.user])
    values, problems = {}, [(f"{user} IS NULL", "missing_user", config.user)]
    for column, wanted in state.columns.items():
        given = columns.get(column)
        if column == config.user:
            values[column] = user
        elif column == config.time:
            assert given is not None, "checked when the files were looked at"
            values[column] = instant(table.where, part.file, config, given)
            problems.append((f"{is_plausible(values[column])} IS NOT TRUE", "bad_time", column))
            shown = "NULL" if given == INSTANT else quote(column)
            values[TIME_TEXT] = f"({shown})::VARCHAR"
        elif given is None:
            values[column] = f"NULL::{wanted}"
        elif given == wanted:
            values[column] = quote(column)
        elif wanted == "VARCHAR" and column not in config.types:
            values[column] = f"{quote(column)}::VARCHAR"
        else:
            values[column] = converted(column, given, wanted, zone)
            problems += [(sql, why, column) for sql, why in is_unusable(column, given, wanted, zone)]
    return values, problems


def split(rows: pa.Table, buckets: int, parts: int) -> list[pa.Table]:
    """The rows of each of `parts` groups of neighbouring buckets, sorted by bucket and otherwise in their order."""
    bucket_N = rows[BUCKET].to_numpy()
    order_N = np.argsort(bucket_N, kind="stable")
    part_N = bucket_N[order_N].astype(np.int64) * parts // buckets
    bounds = np.searchsorted(part_N, np.arange(parts + 1))
    rows = rows.take(pa.array(order_N))
    return [_encoded(rows.slice(start, stop - start)) for start, stop in pairwise(bounds.tolist())]


def _encoded(rows: pa.Table) -> pa.Table:
    """The rows with every text once: they travel and are written in a fraction of the size."""
    for i, field in enumerate(rows.schema):
        if field.type in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
            texts = rows.column(i).cast(pa.string()).combine_chunks()
            rows = rows.set_column(i, field.name, pc.dictionary_encode(texts))
    return rows


def _reasons(connection: duckdb.DuckDBPyConnection, part: Part) -> dict[str, int]:
    query = "SELECT reason, count(*) FROM rejected WHERE source = ? OR starts_with(source, ?) GROUP BY reason"
    return dict(sorted(connection.execute(query, [part.file, part.file + part.separator]).fetchall()))


def _entry(batch: Batch, seen: Look, rows: int, rejected: dict[str, int], guesses: dict[str, TextGuess]) -> FileEntry:
    return FileEntry(
        table=batch.name,
        path=seen.path,
        digest=seen.digest,
        stamp=seen.stamp,
        day=batch.day,
        rows=rows,
        rejected=rejected,
        guesses=guesses,
    )

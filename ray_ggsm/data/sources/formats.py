"""Event files as they lie there: what format a file has, its columns, and its rows as a relation of DuckDB.

The content decides the format, not the name: Parquet, JSON lines, or CSV; the last two plain, gzip or zstd. Texts stay
as they stand in the file. Every row carries the number of its record in the column `RECORD`, so that a rejected row
can be found in the file.
"""

import csv
import io
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sql import own, quote, text

RECORD = own("record")
"""Column: number of the record in its file, from 1; that of the line in JSON lines."""
SAMPLE = 10_000
"""Records that are looked at for keys of JSON lines, and for types before anything is read."""
_BATCH = 20_000
_MAGIC = {b"PAR1": "parquet", b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

BadLine = tuple[int, str]
"""Number of the line, and why it is no record."""


class Part(ABC):
    """One file of a table."""

    unit = "line"
    """What a place in the file is called."""

    def __init__(self, file: str, table: TableConfig) -> None:
        self.file, self.table = file, table

    @abstractmethod
    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """Every column with its DuckDB type; texts of unknown type are VARCHAR, a column without any value NULL."""

    @abstractmethod
    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """The SQL name of a relation with these columns and `RECORD`; it can be read once.

        Args:
            connection: where the relation is read.
            columns: those of `columns()` that are needed.
            bad: collects the lines that are no records; they are left out of the relation in any case.
        """

    def lines(self, records: Collection[int]) -> dict[int, int]:
        """Number of a record -> where it begins in the file, in `unit`s."""
        return {record: record for record in records}


class Unreadable(Exception):  # noqa: N818 (no error: another reader takes over)
    """DuckDB does not read every record of a CSV file."""


class Csv(Part):
    """A CSV file, read by DuckDB; `rows` raises `Unreadable` at its end if some lines are no records to DuckDB."""

    def __init__(self, file: str, table: TableConfig, compression: str) -> None:
        super().__init__(file, table)
        self.compression = compression
        self.header = _header(self)

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The columns of the first line; all are text."""
        return dict.fromkeys(self.header, "VARCHAR")

    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """A subquery over `read_csv`."""
        kinds = ", ".join(f"{text(column)}: 'VARCHAR'" for column in self.header)
        nulls = ", ".join(text(value) for value in ("", *self.table.nulls))
        quoting = f"quote = {text(self.table.quote)}, escape = {text(self.table.quote)}"
        wanted = ", ".join(map(quote, [*columns]))
        yield (
            f"(SELECT {wanted}, row_number() OVER () AS {quote(RECORD)} FROM read_csv({text(escaped(self.file))}, "
            f"auto_detect = false, header = true, columns = {{{kinds}}}, delim = {text(self.table.delimiter)}, "
            f"{quoting}, nullstr = [{nulls}], compression = {text(self.compression)}, hive_partitioning = false, "
            "store_rejects = true))"
        )
        rejected = connection.execute("SELECT count(*) FROM reject_errors").fetchall()[0][0]
        connection.execute("DELETE FROM reject_errors")
        if rejected:
            raise Unreadable

    def lines(self, records: Collection[int]) -> dict[int, int]:
        """The lines that these records begin in; reads the file again."""
        wanted = set(records)
        numbered = enumerate(_records(self, None), 1)
        return {record: line for record, (line, _) in numbered if record in wanted}


class MixedCsv(Csv):
    """A CSV file that DuckDB does not read, because of bad lines or both kinds of line ends; some ten times slower."""

    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """A table of Arrow batches."""
        nulls, positions = {"", *self.table.nulls}, [self.header.index(column) for column in columns]
        records = (
            (number, [None if values[i] in nulls else values[i] for i in positions])
            for number, (_, values) in enumerate(_records(self, bad), 1)
        )
        with _registered(connection, list(columns), records) as name:
            yield name


class JsonLines(Part):
    """A file with one JSON object per line. Numbers stay as they are written; lists and objects are JSON texts."""

    def __init__(self, file: str, table: TableConfig, compression: str) -> None:
        super().__init__(file, table)
        self.compression = compression

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The keys of the first objects; all are text."""
        found: dict[str, str] = {}
        for _, values in itertools.islice(self._objects(None), SAMPLE):
            found.update(dict.fromkeys(values, "VARCHAR"))
        return found

    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """A table of Arrow batches; its records are lines."""
        nulls = {None, "", *self.table.nulls}
        records = (
            (line, [None if (value := values.get(column)) in nulls else value for column in columns])
            for line, values in self._objects(bad)
        )
        with _registered(connection, list(columns), records) as name:
            yield name

    def _objects(self, bad: list[BadLine] | None) -> Iterator[tuple[int, dict[str, str | None]]]:
        with opened(self.file, self.compression) as stream:
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.strip():
                    continue
                try:
                    values = json.loads(line, parse_float=_Number, parse_int=_Number, parse_constant=_constant)
                    if not isinstance(values, dict):
                        raise ValueError("no JSON object")
                    found = {key: _as_text(value) for key, value in values.items()}
                except ValueError as error:
                    if bad is not None:
                        bad.append((number, f"JSON: {error}"))
                    continue
                yield number, found


class Parquet(Part):
    """A Parquet file; its types are those of the file."""

    unit = "row"

    def __init__(self, file: str, table: TableConfig) -> None:
        super().__init__(file, table)
        filesystem, path = storage.arrow_filesystem(file)
        try:
            self.dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning=None)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: expected a Parquet file ({' '.join(str(error).split())})") from None

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The columns of the file's schema."""
        schema = self.dataset.schema
        if len({name.lower() for name in schema.names}) < len(schema.names):
            raise InputError(f"{self.file}: two columns have the same name, upper and lower case aside")
        empty = pa.schema([(field.name, _plain(field.type)) for field in schema]).empty_table()
        connection.register(own("empty"), empty)
        described = connection.execute(f"DESCRIBE {quote(own('empty'))}").fetchall()
        connection.unregister(own("empty"))
        nothing = {field.name: "NULL" for field in schema if pa.types.is_null(field.type)}
        return {row[0]: row[1] for row in described} | nothing

    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """A table of Arrow batches; its records are rows."""
        fields = [pa.field(c, _plain(self.dataset.schema.field(c).type)) for c in columns]
        schema = pa.schema([*fields, pa.field(RECORD, pa.int64())])

        def batches() -> Iterator[pa.RecordBatch]:
            start = 1
            for batch in self.dataset.scanner(columns={c: ds.field(c) for c in columns}).to_batches():
                arrays = [_cast(batch.column(i), field.type) for i, field in enumerate(fields)]
                records = pa.array(np.arange(start, start + batch.num_rows))
                start += batch.num_rows
                yield pa.record_batch([*arrays, records], schema=schema)

        connection.register(own("part"), pa.RecordBatchReader.from_batches(schema, batches()))
        try:
            yield quote(own("part"))
        finally:
            connection.unregister(own("part"))


def part(file: str, table: TableConfig) -> Part | None:
    """The file in its format; None if it is empty."""
    fs, path = storage.filesystem(file)
    with fs.open(path, "rb") as stream:
        head = stream.read(4)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "none")
    if kind == "parquet":
        return Parquet(file, table)
    with opened(file, kind) as stream:
        start = stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        return None
    return JsonLines(file, table, kind) if start.startswith(b"{") else Csv(file, table, kind)


@contextmanager
def opened(file: str, compression: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked."""
    fs, path = storage.filesystem(file)
    with fs.open(path, "rb") as raw:
        if compression == "none":
            yield raw
        else:
            with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression) as stream:
                yield io.BufferedReader(stream)


def escaped(file: str) -> str:
    """A pattern that matches this file only."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in file)


def _header(part: Csv) -> list[str]:
    """The column names of the first line."""
    with opened(part.file, part.compression) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        header = next(csv.reader(lines, **_dialect(part.table)), [])
    if len({column.lower() for column in header}) < len(header) or not all(header):
        raise InputError(f"{part.file}: expected a first line with different column names, found {header}")
    return header


def _dialect(table: TableConfig) -> dict[str, Any]:
    if table.quote:
        return {"delimiter": table.delimiter, "quotechar": table.quote, "strict": True}
    return {"delimiter": table.delimiter, "quoting": csv.QUOTE_NONE}


def _records(part: Csv, bad: list[BadLine] | None) -> Iterator[tuple[int, list[str]]]:
    """The line that each record begins in, and its values; blank lines are no records."""
    csv.field_size_limit(2**31 - 1)
    with opened(part.file, part.compression) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, **_dialect(part.table))
        next(reader, None)
        while True:
            start, problem, values = reader.line_num + 1, None, []
            try:
                values = next(reader)
                "".join(values).encode()
            except StopIteration:
                return
            except csv.Error as error:
                if reader.line_num > start or "unexpected end" in str(error):
                    raise _open_quote(part.file, start) from None
                problem = str(error)
            except UnicodeEncodeError:
                problem = "no UTF-8"
            if problem is None and not values and len(part.header) > 1:
                continue
            if problem is None and len(values or [""]) != len(part.header):
                problem = f"{len(values)} columns, expected {len(part.header)}"
            if problem is None:
                yield start, values or [""]
            elif bad is not None:
                bad.append((start, problem))


def _open_quote(file: str, line: int) -> InputError:
    """What to say of a quote that swallows the lines after it."""
    return InputError(
        f"a quote that opens in line {line} of {file} is not closed there, and the lines after it would be lost; "
        "correct that line, or set quote: '' when the file quotes nothing"
    )


class _Number(str):
    """A number of a JSON text, as it is written."""


def _constant(name: str) -> str | None:
    return None if name == "NaN" else _Number(name)


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is no text
        return str(value)
    return json.dumps(_numbers(value), ensure_ascii=False, separators=(",", ":"))


def _numbers(value: Any) -> Any:
    """The numbers of a list or object as numbers again."""
    if isinstance(value, _Number):
        return json.loads(value)
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return {key: _numbers(each) for key, each in value.items()} if isinstance(value, dict) else value


@contextmanager
def _registered(
    connection: duckdb.DuckDBPyConnection, columns: list[str], records: Iterator[tuple[int, list[str | None]]]
) -> Iterator[str]:
    """A relation of text columns."""
    schema = pa.schema([*((column, pa.string()) for column in columns), (RECORD, pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        while some := list(itertools.islice(records, _BATCH)):
            numbers, rows = zip(*some, strict=True)
            texts = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
            yield pa.record_batch([*texts, pa.array(numbers, pa.int64())], schema=schema)

    connection.register(own("part"), pa.RecordBatchReader.from_batches(schema, batches()))
    try:
        yield quote(own("part"))
    finally:
        connection.unregister(own("part"))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that DuckDB gets for a column of this type."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    if kind in (pa.string_view(), pa.large_string()):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind, safe=False)

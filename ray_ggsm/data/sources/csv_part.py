"""CSV files, plain, gzip or zstd: read by DuckDB, or by Python where DuckDB does not read every line."""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.part import RECORD, BadLine, Part, opened, registered
from ray_ggsm.data.sql import quote, text

if TYPE_CHECKING:
    import _csv


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
        relation = (
            f"(SELECT {wanted}, row_number() OVER () AS {quote(RECORD)} FROM read_csv({text(escaped(self.file))}, "
            f"auto_detect = false, header = true, columns = {{{kinds}}}, delim = {text(self.table.delimiter)}, "
            f"{quoting}, nullstr = [{nulls}], compression = {text(self.compression)}, hive_partitioning = false, "
            "store_rejects = true))"
        )
        connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")
        yield relation
        if connection.execute("SELECT count(*) FROM reject_errors").fetchall()[0][0]:
            raise Unreadable

    def lines(self, records: Collection[int]) -> dict[int, int]:
        """The lines that these records begin in; reads the file again."""
        wanted = set(records)
        numbered = enumerate(_records(self, None), 1)
        return {record: line for record, (line, _) in numbered if record in wanted}


class MixedCsv(Csv):
    """A CSV file that DuckDB does not read, because of bad lines or both kinds of line ends; slower."""

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
        with registered(connection, list(columns), records) as name:
            yield name


def escaped(file: str) -> str:
    """A pattern that matches this file only."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in file)


def _header(part: Csv) -> list[str]:
    """The column names of the first line."""
    with opened(part.file, part.compression) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            header = next(_reader(lines, part.table), [])
            "".join(header).encode()
        except (csv.Error, UnicodeEncodeError) as error:
            raise InputError(
                f"{part.file}: expected CSV in UTF-8, JSON lines or Parquet; the first line is no CSV ({error})"
            ) from None
    if len({column.lower() for column in header}) < len(header) or not all(header):
        raise InputError(f"{part.file}: expected a first line with different column names, found {header}")
    return header


def _reader(lines: io.TextIOWrapper, table: TableConfig) -> "_csv.Reader":
    if table.quote:
        return csv.reader(lines, delimiter=table.delimiter, quotechar=table.quote, strict=True)
    return csv.reader(lines, delimiter=table.delimiter, quoting=csv.QUOTE_NONE)


def _records(part: Csv, bad: list[BadLine] | None) -> Iterator[tuple[int, list[str]]]:
    """The line that each record begins in, and its values; blank lines are no records."""
    csv.field_size_limit(2**31 - 1)
    with opened(part.file, part.compression) as stream:
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = _reader(lines, part.table)
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

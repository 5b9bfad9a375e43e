"""One file of a table: its columns, and its rows as a relation of DuckDB. Each format is a file of its own.

Texts stay as they stand in the file. Every row carries the number of its record in the column `RECORD`, so that a
rejected row can be found in the file.
"""

import io
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import duckdb
import pyarrow as pa

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.guesses import Guess, guesses
from ray_ggsm.data.sql import own, quote, text

RECORD = own("record")
"""Column: number of the record in its file, from 1; that of the line in JSON lines."""
SAMPLE = 10_000
"""Records that are looked at for types before anything is read."""
_BATCH = 20_000
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?: [^\n]*\n)*(.*?)(?=\n\nLINE \d|\Z)", re.DOTALL)
"""Python's error in a text of DuckDB's: its class and what it says."""

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

    @property
    def separator(self) -> str:
        """What stands between the file and a place in it."""
        return ":" if self.unit == "line" else f", {self.unit} "

    @property
    def place(self) -> str:
        """SQL of the file that a row stands in."""
        return text(self.file)

    @property
    def texts(self) -> Mapping[str, str]:
        """Column -> SQL of its text as it stands in the file, where that is not the column itself."""
        return {}

    @property
    def extra(self) -> Mapping[str, str]:
        """Columns of `rows` beside those asked for that its table has, too, with their types."""
        return {}

    @property
    def records(self) -> int | None:
        """Number of its records, where each may hold several events; None: each is one."""
        return None

    def untyped(self, columns: Mapping[str, str], partitions: Collection[str]) -> set[str]:
        """Those of the columns whose texts no schema gives a type."""
        return set(columns) - set(partitions)

    def guesses(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], whole: bool
    ) -> dict[str, list[Guess]]:
        """What the texts of columns stand for; `whole`: look at every value, not only at the first ones."""
        with self.rows(connection, columns) as rows:
            limit = "" if whole else f" LIMIT {SAMPLE}"
            return {c: [guess] for c, guess in guesses(connection, f"(FROM {rows}{limit})", columns).items()}

    def lines(self, records: Collection[int]) -> dict[int, int]:
        """Number of a record -> where it begins in the file, in `unit`s."""
        return {record: record for record in records}


@contextmanager
def opened(file: str, compression: str) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked."""
    fs, path = storage.filesystem(file)
    with fs.open(path, "rb") as raw:
        if compression == "none":
            yield raw
        else:
            try:
                with pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression) as stream:
                    yield io.BufferedReader(stream)
            except OSError as error:
                if error.errno is not None or storage.refused(error) or storage.passing(error):
                    raise
                raise InputError(f"{file}: this {compression} file is damaged ({error})") from None


@contextmanager
def registered(
    connection: duckdb.DuckDBPyConnection, columns: list[str], records: Iterator[tuple[int, list[str | None]]]
) -> Iterator[str]:
    """A relation of text columns."""
    schema = pa.schema([*((column, pa.string()) for column in columns), (RECORD, pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        while some := list(itertools.islice(records, _BATCH)):
            numbers, rows = zip(*some, strict=True)
            texts = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
            yield pa.record_batch([*texts, pa.array(numbers, pa.int64())], schema=schema)

    with streamed(connection, schema, batches()) as name:
        yield name


@contextmanager
def streamed(
    connection: duckdb.DuckDBPyConnection, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[str]:
    """The SQL name of a relation of batches, which can be read once.

    Of an error in `batches` DuckDB keeps the text alone; what the storage is to blame for is raised as what it is.

    Raises:
        NotNow: the storage may be back later.
    """
    failed: list[Exception] = []

    def watched() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except Exception as error:
            failed.append(error)
            raise

    connection.register(own("part"), pa.RecordBatchReader.from_batches(schema, watched()))
    try:
        yield quote(own("part"))
    except duckdb.Error:
        for error in failed:
            if sentence := storage.passing(error):
                raise NotNow(sentence) from error
            if storage.refused(error):
                raise error from None
        raise
    finally:
        connection.unregister(own("part"))


def outage(error: duckdb.Error) -> str | None:
    """Why an error may not come again, where a file system of Python's raised it inside DuckDB, which keeps its text
    alone; None: it is another error."""
    raised = _TRACEBACK.search(str(error))
    return None if raised is None else storage.passing(OSError(raised[1]))

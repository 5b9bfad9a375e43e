"""The rows of a store's table as a part that `FileTable` reads, as it reads a file of the user's."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from ray_ggsm import storage
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.guesses import Guess
from ray_ggsm.data.sources.part import RECORD as PART_RECORD
from ray_ggsm.data.sources.part import BadLine, Part, streamed
from ray_ggsm.data.sources.source import FILE as PART_FILE
from ray_ggsm.data.sql import own, quote, text
from ray_ggsm.data.store.columns import DAY, FILE, OWN, RECORD, REJECTED_COLUMNS, TIME_TEXT, arrow_schema
from ray_ggsm.data.store.manifest import TableState, TextGuess

TEXT_OF_TIME, DAY_OF_FACTS = own("text of the time in the store"), own("day")
"""Columns."""


class StoredPart(Part):
    """Rows of some files of a table."""

    def __init__(
        self,
        location: str,
        files: Sequence[str],
        table: TableConfig,
        state: TableState,
        texts: Mapping[str, Sequence[TextGuess]],
    ) -> None:
        """Takes the table's place, locations of its files, its columns, and what texts of its columns stand for."""
        super().__init__(location, table)
        self.files, self.state, self._guesses = files, state, texts

    @classmethod
    def rejected(cls, files: Sequence[str]) -> "StoredPart":
        """The table of records that cannot be used, which has columns of its own only."""
        state = TableState(version=0, user="user_id", time=None, columns=REJECTED_COLUMNS, texts=(), rows=0)
        return cls(files[0], files, TableConfig(files="", user="user_id"), state, {})

    @property
    def _own(self) -> Mapping[str, str]:
        """Column of the part -> the store's column."""
        if self.state.columns == REJECTED_COLUMNS:
            return {}
        last = {DAY_OF_FACTS: DAY} if self.state.time is None else {TEXT_OF_TIME: TIME_TEXT}
        return {PART_FILE: FILE, PART_RECORD: RECORD, **last}

    @property
    def extra(self) -> Mapping[str, str]:
        """The day of static facts."""
        return {DAY_OF_FACTS: "VARCHAR"} if self.state.time is None else {}

    @property
    def place(self) -> str:
        """SQL of the file that a row came from."""
        return quote(PART_FILE)

    @property
    def texts(self) -> Mapping[str, str]:
        """The time as it stood in the file."""
        time = self.state.time
        return {} if time is None else {time: f"coalesce({quote(TEXT_OF_TIME)}, {quote(time)}::VARCHAR)"}

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The columns of the table."""
        return dict(self.state.columns)

    def untyped(self, columns: Mapping[str, str], partitions: Collection[str]) -> set[str]:
        """Columns that came from files without types."""
        return set(self.state.texts)

    def guesses(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], whole: bool
    ) -> dict[str, list[Guess]]:
        """What was found when the files came in, about every value of them."""
        return {c: [Guess(frozenset(g.kinds), g.values, None) for g in self._guesses.get(c, ())] for c in columns}

    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """These columns, with the place of each row and the text of its time."""
        wanted = {**{c: c for c in columns}, **self._own}
        kinds = {**self.state.columns, **OWN}
        types = {name: kinds[column] for name, column in wanted.items()}
        if self.files and "://" not in self.file:
            # twice as fast as a stream of batches
            values = ", ".join(f"{quote(c)}::{types[name]} AS {quote(name)}" for name, c in wanted.items())
            files = ", ".join(map(text, self.files))
            yield f"(SELECT {values} FROM read_parquet([{files}], hive_partitioning = false))"
            return
        schema = arrow_schema(types)

        def batches() -> Iterator[pa.RecordBatch]:
            if not self.files:
                return
            places = [storage.arrow_filesystem(file) for file in self.files]
            paths, fs = [path for _, path in places], places[0][0]
            dataset = storage.retried(lambda: ds.dataset(paths, filesystem=fs, format="parquet"))
            scanner = dataset.scanner(columns={name: ds.field(column) for name, column in wanted.items()})
            for batch in scanner.to_batches():
                arrays = [a if a.type == f.type else a.cast(f.type) for a, f in zip(batch.columns, schema, strict=True)]
                yield pa.record_batch(arrays, schema=schema)

        with streamed(connection, schema, batches()) as name:
            yield name

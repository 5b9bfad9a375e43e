"""Events from a store, bucket by bucket: the source of nights and of large studies."""

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.column_types import Types
from ray_ggsm.data.sources.files import EventFiles
from ray_ggsm.data.sources.source import KNOWN_FROM, KNOWN_UNTIL, Extract, Keys, State
from ray_ggsm.data.sources.table import FileTable
from ray_ggsm.data.sources.uses import NO_USES, Uses
from ray_ggsm.data.sql import quote, text
from ray_ggsm.data.store import manifest
from ray_ggsm.data.store.columns import REJECTED, SEQUENCE
from ray_ggsm.data.store.layout import require_layout, table_place
from ray_ggsm.data.store.log import StoreFile, files, iso, sequences_of
from ray_ggsm.data.store.stored_part import DAY_OF_FACTS, StoredPart


@dataclass(frozen=True)
class EventStore:
    """The source `store`."""

    location: str
    sequence: int | None
    """Manifest; None: the newest one."""
    types: Mapping[str, Mapping[str, str]]
    """Table -> column -> declared type."""
    uses: Mapping[str, Uses]
    """What the config does with each table."""
    origin: EventFiles | None = None
    """The files that the store was made of for this config alone: lines of rejected rows are looked up there."""
    bucket: int | None = None
    """The only bucket that is read; None: all."""
    paths: Mapping[str, tuple[str, ...]] | None = None
    """Table -> locations of the files that are read, for tasks, which read no log; None: the log tells."""
    period: tuple[dt.datetime, dt.datetime] | None = None
    """Instants between which events count: files whose events all lie before or after are not read; None: all count."""
    spans: Mapping[str, tuple[tuple[int, int], ...]] | None = None
    """For tasks, with a period: table -> `all_spans`."""

    @cached_property
    def held(self) -> manifest.State:
        """What the store holds."""
        require_layout(self.location)
        found = manifest.read_state(self.location, self.sequence)
        if not found.sequence:
            raise InputError(f"{self.location}: this event store is empty; jobs/ingest.py fills it")
        return found

    @cached_property
    def all_files(self) -> dict[str, list[StoreFile]]:
        """Table -> its files."""
        return {
            name: [f for f in files(table_place(self.location, name), table.version, table.time) if self._counts(f)]
            for name, table in self.held.tables.items()
        }

    def _counts(self, file: StoreFile) -> bool:
        if self.period is None or file.first_time is None or file.last_time is None:
            return True
        first, end = map(iso, self.period)
        return first <= file.last_time and file.first_time < end

    @cached_property
    def all_spans(self) -> Mapping[str, tuple[tuple[int, int], ...]] | None:
        """Table -> spans of changes that brought files that are read, of any bucket; None: everything counts.

        Rejected records have no time. Those count that came with records of the period.
        """
        if self.period is None or self.spans is not None:
            return self.spans
        return {name: _merged({f.sequences for f in some}) for name, some in self.all_files.items()}

    def shards(self, wanted: int) -> int:
        """The store's buckets."""
        return require_layout(self.location).buckets

    def of_shard(self, shard: int) -> "EventStore":
        """A source that reads one bucket, and takes along nothing that grows with users or with other buckets."""
        mine = {name: tuple(by_bucket.get(shard, ())) for name, by_bucket in self._by_bucket.items()}
        only = replace(self, bucket=shard, paths=mine, spans=self.all_spans)
        only.__dict__["held"] = self.held.model_copy(update={"files": {}, "sequences": {}, "suppressed": ()})
        return only

    @cached_property
    def _by_bucket(self) -> dict[str, dict[int, list[str]]]:
        """Table -> bucket -> locations of its files."""
        found: dict[str, dict[int, list[str]]] = {name: {} for name in self.all_files}
        for name, some in self.all_files.items():
            place = table_place(self.location, name)
            for file in some:
                found[name].setdefault(file.bucket, []).append(storage.join(place, file.path))
        return found

    def tables(self) -> dict[str, Keys]:
        """Every table of the store."""
        return {
            name: Keys(table.user, table.time, table.time is None)
            for name, table in self.held.tables.items()
            if name != REJECTED
        }

    def column_types(self, connection: duckdb.DuckDBPyConnection, whole: bool = True) -> Types:
        """The types of the columns that expressions use; reads no event."""
        return {name: self._table(connection, name).types(whole) for name in self.tables()}

    def check_types(self, connection: duckdb.DuckDBPyConnection, types: Types, where: str) -> None:
        """Refuse a store that has lost a column, or has it with another type; raises like `Source.check_types`."""
        for name in self.tables():
            if name in types:
                self._table(connection, name).check_types(types[name], where)

    def load(self, connection: duckdb.DuckDBPyConnection, types: Types, wanted: Extract) -> None:
        """Create the tables with the rows of the bucket.

        Raises:
            InputError: a column is missing or has no usable type.
        """
        for name, keys in self.tables().items():
            if not wanted.has(name):
                continue
            table = self._table(connection, name, wanted)
            table.create(types[name], wanted.empty)
            if not wanted.empty:
                table.fill(types[name], 0, 1)
            if keys.time is None:
                _add_validity(connection, name, keys.user)
        if not wanted.empty:
            self._load_rejected(connection)

    def _load_rejected(self, connection: duckdb.DuckDBPyConnection) -> None:
        if found := self._paths(REJECTED):
            wanted = ["table", "user_id", "source", "reason", "detail", SEQUENCE]
            with StoredPart.rejected(found).rows(connection, wanted) as rows:
                columns = '"table", NULL, user_id, NULL, source, NULL, reason, detail'
                connection.execute(f"INSERT INTO rejected SELECT {columns} FROM {rows} WHERE {self._rejected_counts}")

    @property
    def _rejected_counts(self) -> str:
        """SQL: whether a rejected record counts."""
        if self.all_spans is None:
            return "true"
        came_with = [(name, *span) for name, spans in self.all_spans.items() for span in spans]
        each = [f'("table" = {text(t)} AND {quote(SEQUENCE)} BETWEEN {a} AND {b})' for t, a, b in came_with]
        return " OR ".join(each) or "false"

    def hint(self, types: Types, sentence: str) -> str:
        """Nothing: the store keeps no examples of texts."""
        return ""

    def locate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Add the line, or the record's number, to the source of every rejected row that has a record."""
        if self.origin is not None:
            self.origin.locate(connection)
        connection.execute(
            "UPDATE rejected SET source = source || ', record ' || record, record = NULL WHERE record IS NOT NULL"
        )

    def users_since(self, sequence: int) -> pa.Array:
        """Users of whom the store has got anything after a change."""
        found = []
        for name, keys in self.tables().items():
            for file in self._paths(name):
                if sequences_of(file)[1] > sequence:
                    fs, path = storage.arrow_filesystem(file)
                    rows = ds.dataset([path], filesystem=fs, format="parquet")
                    new = rows.to_table(columns=[keys.user], filter=ds.field(SEQUENCE) > sequence)
                    found.append(new[keys.user].combine_chunks().cast(pa.string()))
        return pa.concat_arrays(found).unique() if found else pa.array([], pa.string())

    def adds_only(self, since: int) -> bool:
        """Whether the changes after one took no event away but those of forgotten users."""
        later = [each for each in manifest.read_manifests(self.location, self.sequence) if each.sequence > since]
        return since <= self.held.sequence and not any(each.removed or each.operation == "expire" for each in later)

    def state(self) -> State:
        """The manifest."""
        return {"store": {"manifest": str(self.held.sequence), "run": self.held.run}}

    def _table(self, connection: duckdb.DuckDBPyConnection, name: str, wanted: Extract | None = None) -> FileTable:
        state = self.held.tables[name]
        config = TableConfig(
            files=table_place(self.location, name),
            user=state.user,
            time=state.time,
            types=dict(self.types.get(name, {})),
        )
        guesses: dict[str, list[manifest.TextGuess]] = {}
        for entry in self.held.files.values():
            if entry.table == name:
                for column, guess in entry.guesses.items():
                    guesses.setdefault(column, []).append(guess)
        part = StoredPart(config.files, self._paths(name), config, state, guesses)
        uses = self.uses.get(name, NO_USES)
        return FileTable(connection, name, config, uses.of(wanted) if wanted else uses, stored=part)

    def _paths(self, table: str) -> tuple[str, ...]:
        if self.paths is not None:
            return self.paths.get(table, ())
        place = table_place(self.location, table)
        return tuple(storage.join(place, f.path) for f in self.all_files.get(table, ()))


def _merged(spans: Collection[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans of changes, those that touch as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def _add_validity(connection: duckdb.DuckDBPyConnection, name: str, user: str) -> None:
    """Say of every row of a static table from when to when it is what is known of its user.

    Facts are known when their day has ended, until the user's next ones; those without a day always are.
    """
    day, known = quote(DAY_OF_FACTS), (quote(KNOWN_FROM), quote(KNOWN_UNTIL))
    connection.execute(
        f"""CREATE OR REPLACE TABLE {quote(name)} AS
        WITH dated AS (
            SELECT * EXCLUDE ({day}),
                coalesce(({day}::DATE + 1)::TIMESTAMP::TIMESTAMPTZ, timestamptz '-infinity') AS {known[0]}
            FROM {quote(name)}
        ), periods AS (
            SELECT {quote(user)}, {known[0]}, coalesce(
                lead({known[0]}) OVER (PARTITION BY {quote(user)} ORDER BY {known[0]}), timestamptz 'infinity'
            ) AS {known[1]}
            FROM (SELECT DISTINCT {quote(user)}, {known[0]} FROM dated)
        )
        SELECT dated.*, {known[1]} FROM dated JOIN periods USING ({quote(user)}, {known[0]})"""
    )

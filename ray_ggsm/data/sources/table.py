"""One table of own event files while it is read: its files, columns and types, and its rows in the database."""

import glob
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import duckdb
import fsspec

from ray_ggsm import storage
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.column_checks import check_columns, check_definition
from ray_ggsm.data.sources.column_types import unified
from ray_ggsm.data.sources.conversion import conversion, has_text
from ray_ggsm.data.sources.csv_part import Csv, MixedCsv, Unreadable
from ray_ggsm.data.sources.formats import part
from ray_ggsm.data.sources.guesses import Guess, common
from ray_ggsm.data.sources.json_part import JsonLines
from ray_ggsm.data.sources.part import RECORD, BadLine, Part, outage
from ray_ggsm.data.sources.source import FILE, shown
from ray_ggsm.data.sources.uses import NO_USES, Uses
from ray_ggsm.data.sql import OWN, columns_in, own, quote, reason, shard_condition, text

T = TypeVar("T")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""Folder value that stands for no value."""


def matching_files(name: str, table: TableConfig) -> list[str]:
    """The files of a table, sorted; a file of exactly this name comes before a pattern.

    Raises:
        InputError: there are none.
    """
    if storage.exists(table.files):
        found = [table.files]
    elif "://" in table.files:
        found = storage.glob(table.files)
    else:
        found = glob.glob(table.files, recursive=True)
    if directories := [file for file in found if storage.is_directory(file)]:
        raise InputError(
            f"data.source.tables.{name}.files: {directories[0]} is a directory; write {directories[0]}/* or "
            f"{directories[0]}/*.parquet, for example"
        )
    if not found:
        raise InputError(f"data.source.tables.{name}.files: no file matches '{table.files}'")
    return sorted(found)


@dataclass(frozen=True)
class FileTable:
    """One table of the config while it is read."""

    connection: duckdb.DuckDBPyConnection
    name: str
    config: TableConfig
    uses: Uses = NO_USES
    files: Sequence[str] | None = None
    """Its files; None: those that match the config."""
    stored: Part | None = None
    """Its only part, which is no file of the user's (`ray_ggsm.data.store`)."""

    @property
    def where(self) -> str:
        """The config key."""
        return f"data.source.tables.{self.name}"

    @cached_property
    def parts(self) -> list[tuple[Part, dict[str, str]]]:
        """The files that are not empty, each with its columns and their types, and those of its folders.

        Raises:
            InputError: all are empty, or one cannot be read.
        """
        if not self.parts_or_none:
            raise InputError(f"{self.where}.files: all files of '{self.config.files}' are empty")
        return self.parts_or_none

    @cached_property
    def parts_or_none(self) -> list[tuple[Part, dict[str, str]]]:
        """`parts`; nothing where all files are empty."""
        if self.stored is not None:
            return [(self.stored, self.stored.columns(self.connection))]
        if "://" in self.config.files:
            self._register(storage.filesystem(self.config.files)[0])
        found = []
        with self._sentences():
            for file in matching_files(self.name, self.config) if self.files is None else self.files:
                each = part(file, self.config)
                if each is not None:
                    found.append((each, self._columns(each)))
        every = {column: "VARCHAR" for _, columns in found for column in columns}
        # a key that no object of a file has is a column without values
        return [(each, every if isinstance(each, JsonLines) else columns) for each, columns in found]

    def _register(self, fs: fsspec.AbstractFileSystem) -> None:
        """Have DuckDB read files of this file system."""
        names = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
        if not names & {*self.connection.list_filesystems()}:
            self.connection.register_filesystem(fs)

    def _columns(self, each: Part) -> dict[str, str]:
        columns = each.columns(self.connection)
        for name in self.config.partitions:
            if name.lower() in {column.lower() for column in columns}:
                raise InputError(
                    f"{self.where}.partitions: {each.file} has a column '{name}' of its own; leave it out of "
                    "`partitions`, or rename the column in the files"
                )
            folder_value(each.file, name, self.where)
        for column in columns:
            if column.lower() in ("as_of", "days_away") or column.startswith(OWN):
                raise InputError(
                    f"{self.where}: column '{column}' of {each.file} has a reserved name; rename it in the files"
                )
        return columns | dict.fromkeys(self.config.partitions, "VARCHAR")

    @cached_property
    def columns(self) -> dict[str, None]:
        """The columns of all files, in their order."""
        return dict.fromkeys(column for _, columns in self.parts for column in columns)

    @cached_property
    def computed(self) -> list[str]:
        """The columns that have a type: those of expressions, and those whose type is declared."""
        keys = {self.config.user, self.config.time}
        used = {column for sql in self.uses.expressions for column in columns_in(self.connection, sql)}
        declared = {*self.config.types, *self.uses.numbers}
        return [c for c in self.columns if c not in keys and (c in declared or c.lower() in used)]

    def types(self, whole: bool) -> dict[str, str]:
        """The type of each computed column."""
        used = {*self.computed, *self.uses.templates}
        check_columns(self.where, self.config, self.parts, self.columns, used, self.uses.templates)
        declared = self.config.types
        unknown = [column for column in self.computed if column not in declared]
        kinds: dict[str, dict[str, str]] = {column: {} for column in unknown}
        guessed: dict[str, list[Guess]] = {}
        for each, columns in self.parts:
            here = [column for column in unknown if column in columns]
            untyped = [column for column in here if column in each.untyped(columns, self.config.partitions)]
            here = [column for column in here if column not in untyped]
            for column, some in self.read(each, partial(self._guesses, columns=untyped, whole=whole)).items():
                guessed.setdefault(column, []).extend(some)
            for column in here:
                kinds[column].setdefault(columns[column], each.file)
        for column, some in guessed.items():
            kinds[column].setdefault(common(some), self.config.files)
        types = {column: unified(self.where, column, kinds[column]) for column in unknown}
        # where a number is needed, a text that is none costs its row
        types |= {c: "DOUBLE" for c in self.uses.numbers if types.get(c) in ("VARCHAR", "BOOLEAN")}
        return {c: self.canonical(declared[c]) if c in declared else types[c] for c in self.computed}

    def _guesses(self, each: Part, columns: Sequence[str], whole: bool) -> dict[str, list[Guess]]:
        return each.guesses(self.connection, columns, whole) if columns else {}

    def canonical(self, kind: str) -> str:
        """DuckDB's own name of a declared type: DOUBLE for float8.

        Raises:
            InputError: there is no such type.
        """
        with self._sentences():
            return str(self.connection.execute(f"SELECT typeof(NULL::{kind})").fetchall()[0][0])

    def texts(self, types: Mapping[str, str], sentence: str) -> Iterator[tuple[str, str]]:
        """The columns in a sentence that are text undeclared, each with a value that is no number; reads them whole."""
        wanted = [c for c, kind in types.items() if kind == "VARCHAR" and c not in self.config.types]
        wanted = [c for c in wanted if re.search(rf"(?<!\w){re.escape(c)}(?!\w)", sentence)]
        for each, columns in self.parts if wanted else ():
            here = [
                c for c in wanted if columns.get(c) == "VARCHAR" and c in each.untyped(columns, self.config.partitions)
            ]
            found = self.read(each, partial(self._guesses, columns=here, whole=True))
            yield from ((c, g.example) for c, some in found.items() for g in some if g.example is not None)

    def check_types(self, types: Mapping[str, str], where: str) -> None:
        """Refuse files without a column of a row definition, or with another type; `where` is the definition's file."""
        check_definition(self.where, self.config, self.parts, types, where)

    def create(self, types: Mapping[str, str], all_columns: bool) -> None:
        """Create the table without rows; with all columns of the files, or those that are used."""
        config = self.config
        kinds = {config.user: "VARCHAR", **({config.time: "TIMESTAMPTZ"} if config.time else {}), **types}
        names = [c for c in self.columns if c in kinds or c in self.uses.templates or all_columns]
        columns = [f"{quote(c)} {kinds.get(c, 'VARCHAR')}" for c in names]
        columns += [f"{quote(shown(c))} VARCHAR" for c in names if has_text(c, config, types, self.uses.templates)]
        columns += [f"{quote(FILE)} VARCHAR", f"{quote(RECORD)} BIGINT"]
        columns += [f"{quote(c)} {kind}" for c, kind in self._extra.items()]
        with self._sentences():
            self.connection.execute(f"CREATE TABLE {quote(self.name)} ({', '.join(columns)})")

    @property
    def _extra(self) -> Mapping[str, str]:
        return {} if self.stored is None else self.stored.extra

    def fill(self, types: Mapping[str, str], shard: int, shards: int) -> None:
        """Insert the rows of a shard; what cannot be used goes to `rejected`."""
        for each, columns in self.parts:
            bad: list[BadLine] | None = [] if shard == 0 else None
            self.read(each, partial(self._insert, columns=columns, types=types, shard=(shard, shards), bad=bad))
            self.reject_lines(each, bad or ())

    def reject_lines(self, each: Part, bad: Iterable[BadLine]) -> None:
        """Add lines that are no records to `rejected`."""
        for line, why in bad:
            self.connection.execute(
                "INSERT INTO rejected VALUES (?, NULL, NULL, NULL, ?, NULL, 'bad_line', ?)",
                [self.name, each.file + each.separator + str(line), why[:300]],
            )

    def _insert(
        self,
        each: Part,
        columns: Mapping[str, str],
        types: Mapping[str, str],
        shard: tuple[int, int],
        bad: list[BadLine] | None,
    ) -> None:
        config, why, detail, read = self.config, *(quote(own(name)) for name in ("reason", "detail", "read"))
        converted = conversion(self.where, each.file, config, columns, types, self.uses.templates, each.texts)
        folders = "".join(
            f", {literal(folder_value(each.file, name, self.where))} AS {quote(name)}" for name in config.partitions
        )
        needed = [column for column in converted.needed if column not in config.partitions]
        place = f"{each.place} AS {quote(FILE)}, {quote(RECORD)}{''.join(f', {quote(c)}' for c in each.extra)}"
        keys = {config.user, config.time}
        if each is self.stored and all(column in keys for _, _, column in converted.problems):
            # records without a user or a time are not in a store: nothing is left that could be rejected
            with each.rows(self.connection, needed, bad) as rows:
                self.connection.execute(
                    f"INSERT INTO {quote(self.name)} BY NAME SELECT {converted.selected}, {place} FROM {rows}"
                )
            return
        with each.rows(self.connection, needed, bad) as rows:
            self.connection.execute(
                f"CREATE OR REPLACE TEMP TABLE {read} AS SELECT {converted.selected}, {place}, "
                f"{converted.reason} AS {why}, {converted.detail} AS {detail} "
                f"FROM (SELECT *{folders} FROM {rows}) WHERE {shard_condition(converted.user, *shard)}"
            )
        try:
            self.connection.execute(
                f"INSERT INTO rejected SELECT {text(self.name)}, NULL, {quote(config.user)}, NULL, {quote(FILE)}, "
                f"{quote(RECORD)}, {why}, {detail} FROM {read} WHERE {why} IS NOT NULL"
            )
            self.connection.execute(
                f"INSERT INTO {quote(self.name)} BY NAME SELECT * EXCLUDE ({why}, {detail}) FROM {read} "
                f"WHERE {why} IS NULL"
            )
        finally:
            self.connection.execute(f"DROP TABLE {read}")

    def read(self, each: Part, action: Callable[[Part], T]) -> T:
        """What an action on a file gives; a CSV file that DuckDB cannot read is read by Python, so it may run twice."""
        with self._sentences():
            try:
                return action(each)
            except (Unreadable, duckdb.InvalidInputException):
                if type(each) is not Csv:
                    raise
                return action(MixedCsv(each.file, each.table, each.compression))

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            if sentence := outage(error):
                raise NotNow(f"{self.where}: {sentence}") from error
            raise InputError(f"{self.where}: {self.config.files} cannot be read: {reason(error)}") from None
        except InputError as error:
            where = "" if str(error).startswith("data.") else f"{self.where}.files: "
            raise InputError(f"{where}{error}") from None


def folder_value(file: str, name: str, where: str) -> str | None:
    """The value of a folder `name=value` above the file.

    Raises:
        InputError: there is no such folder.
    """
    found = re.findall(rf"(?:^|/){re.escape(name)}=([^/]*)(?=/)", file)
    if not found:
        raise InputError(f"{where}.partitions: {file} has no folder '{name}=...'")
    value = urllib.parse.unquote(found[-1])
    return None if value == HIVE_NULL else value


def literal(value: str | None) -> str:
    """SQL: a text, or no text."""
    return "NULL::VARCHAR" if value is None else text(value)

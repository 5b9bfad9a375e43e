"""The user's own event files as tables: users become text, times become instants, unreadable rows are set aside.

Types are taken file by file, before anything is put together. Only columns that the config uses are loaded. A column
that expressions use has the type that all its values fit (`column_types`); beside it stands, for templates, the text
as it is in the file. A bad value costs one row, never the run; every rejected row is kept with its file, its line, its
reason and what stood there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from ray_ggsm import storage
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.column_types import Types
from ray_ggsm.data.sources.formats import part
from ray_ggsm.data.sources.source import Extract, Keys, State
from ray_ggsm.data.sources.table import FileTable, matching_files
from ray_ggsm.data.sources.uses import NO_USES, Uses
from ray_ggsm.data.sql import text


@dataclass(frozen=True)
class EventFiles:
    """The source `files`."""

    configs: Mapping[str, TableConfig]
    """Files and columns of each table."""
    uses: Mapping[str, Uses]
    """What the config does with each table."""

    def shards(self, wanted: int) -> int:
        """As many as wanted."""
        return wanted

    def of_shard(self, shard: int) -> "EventFiles":
        """This source."""
        return self

    def tables(self) -> dict[str, Keys]:
        """Every table of the config."""
        return {name: Keys(table.user, table.time) for name, table in self.configs.items()}

    def column_types(self, connection: duckdb.DuckDBPyConnection, whole: bool = True) -> Types:
        """The types of the columns that expressions use; reads their texts, or with `whole: false` the first ones."""
        return {
            name: FileTable(connection, name, table, self.uses.get(name, NO_USES)).types(whole)
            for name, table in self.configs.items()
        }

    def load(self, connection: duckdb.DuckDBPyConnection, types: Types, wanted: Extract) -> None:
        """Create the tables with the rows of one shard.

        Raises:
            InputError: no file matches, or a column is missing or has no usable type.
        """
        for name, table in self.configs.items():
            if not wanted.has(name):
                continue
            files = FileTable(connection, name, table, self.uses.get(name, NO_USES).of(wanted))
            files.create(types[name], wanted.empty)
            if not wanted.empty:
                files.fill(types[name], wanted.shard, wanted.shards)

    def check_types(self, connection: duckdb.DuckDBPyConnection, types: Types, where: str) -> None:
        """Refuse files that have lost a column, or have it with another type; raises like `Source.check_types`."""
        for name, table in self.configs.items():
            if name in types:
                FileTable(connection, name, table, self.uses.get(name, NO_USES)).check_types(types[name], where)

    def hint(self, types: Types, sentence: str) -> str:
        """What to say, after a sentence, of the texts in it that are columns without a number type."""
        with duckdb.connect() as connection:
            for name, table in self.configs.items():
                files = FileTable(connection, name, table, self.uses.get(name, NO_USES))
                for column, example in files.texts(types[name], sentence):
                    return (
                        f"; '{column}' is text because of values such as {example!r}. To set such rows aside, "
                        f"write data.source.tables.{name}.types: {{{column}: double}}"
                    )
        return ""

    def locate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Add the line to the source of every rejected row that has a record."""
        query = 'SELECT DISTINCT "table", source, record FROM rejected WHERE record IS NOT NULL'
        wanted: dict[tuple[str, str], list[int]] = {}
        for name, file, record in connection.execute(query).fetchall():
            wanted.setdefault((name, file), []).append(record)
        for (name, file), records in wanted.items():
            found = part(file, self.configs[name])
            if found is None:
                continue
            places = found.lines(records)
            if not places:
                continue
            lines = ", ".join(f"({record}, {line})" for record, line in places.items())
            connection.execute(
                f"UPDATE rejected SET source = source || {text(found.separator)} || line, record = NULL "
                f"FROM (VALUES {lines}) AS places(n, line) "
                'WHERE "table" = ? AND source = ? AND record = n', [name, file],
            )  # fmt: skip

    def state(self) -> State:
        """Per table, the files with their size and modification time or entity tag."""
        return {
            name: {file: stamp(file) for file in matching_files(name, table)} for name, table in self.configs.items()
        }


def stamp(file: str) -> str:
    """Size and modification time, or entity tag, of a file."""
    fs, path = storage.filesystem(file)
    info = fs.info(path)
    return f"{info['size']} bytes, {storage.write_mark(info)}"

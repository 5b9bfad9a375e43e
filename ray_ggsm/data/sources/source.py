"""What prepare asks of the place that events come from."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import duckdb

from ray_ggsm.data.sources.column_types import Types
from ray_ggsm.data.sql import own

FILE = own("file")
"""Column: the file that a row stands in. Tables of other sources than files have none."""

CREATE_REJECTED = (
    'CREATE TABLE rejected ("table" VARCHAR, split VARCHAR, user_id VARCHAR, as_of TIMESTAMPTZ, '
    "source VARCHAR, record BIGINT, reason VARCHAR, detail VARCHAR)"
)
"""SQL: the table of what cannot be used."""

KNOWN_FROM, KNOWN_UNTIL = own("known from"), own("known until")
"""Columns of static tables of a store: the period in which a row is what is known of its user."""

State = dict[str, dict[str, str]]
"""Per table (or package), what its content depends on: files with size and time, or a version."""


def shown(column: str) -> str:
    """Column: the text of another column as it stands in the file."""
    return own(f"text of {column}")


class Keys(NamedTuple):
    """The columns of a table that say who and when."""

    user: str
    time: str | None
    """None: the table is static and belongs to every snapshot of its users."""
    has_periods: bool = False
    """With a static table: its rows belong to the snapshots between KNOWN_FROM and KNOWN_UNTIL alone."""


@dataclass(frozen=True)
class Extract:
    """What is loaded of a source."""

    shard: int = 0
    """Position of the shard of users, of `shards`; shard 0 also reports lines that belong to no user."""
    shards: int = 1
    empty: bool = False
    """Only create the tables with their columns."""
    only: Collection[str] | None = None
    """Tables that are needed; None: all. More may be created."""
    texts: bool = True
    """Whether columns that only templates show are needed."""

    def has(self, table: str) -> bool:
        """Whether a table is needed."""
        return self.only is None or table in self.only


class Source(Protocol):
    """Where events come from; `ray_ggsm.data.source_choice.source_of` chooses one from the config."""

    def shards(self, wanted: int) -> int:
        """Number of shards that users are prepared in: `wanted`, if the source can be divided at will."""

    def of_shard(self, shard: int) -> "Source":
        """What a task of one shard needs: a source that gives this shard."""

    def tables(self) -> dict[str, Keys]:
        """Every table by name. Opens no file."""

    def column_types(self, connection: duckdb.DuckDBPyConnection, whole: bool = True) -> Types:
        """The types of columns that no schema gives.

        Args:
            connection: where files are read.
            whole: look at every value; false: only at the first ones.

        Raises:
            InputError: the source is not there, or its tables are not as the config says.
        """

    def load(self, connection: duckdb.DuckDBPyConnection, types: Types, wanted: "Extract") -> None:
        """Create each table with the rows of one shard of users, and add unusable rows to the table `rejected`.

        Args:
            connection: a database with the table `rejected`.
            types: those of `column_types`.
            wanted: which rows.

        Raises:
            InputError: the source is not there, or its tables are not as the config says.
        """

    def check_types(self, connection: duckdb.DuckDBPyConnection, types: Types, where: str) -> None:
        """Refuse files without some of these columns, or with another type in their schema; more columns are welcome.

        Args:
            connection: where files are read.
            types: those of a row definition.
            where: file of the definition, for errors.

        Raises:
            InputError: naming table, file and column.
        """

    def hint(self, types: Types, sentence: str) -> str:
        """What to add to a sentence about an expression, from the types of the columns in it; often nothing."""

    def locate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Complete the places of rejected rows: file and line."""

    def state(self) -> State:
        """What the content depends on: it changes when an input changes. Reads no event.

        Raises:
            InputError: the source is not there.
        """

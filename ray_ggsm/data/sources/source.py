"""What prepare asks of the place that events come from."""

from typing import NamedTuple, Protocol

import duckdb

State = dict[str, dict[str, str]]
"""Per table (or package), what its content depends on: files with size and time, or a version."""


class Keys(NamedTuple):
    """The columns of a table that say who and when."""

    user: str
    time: str | None
    """None: the table is static and belongs to every snapshot of its users."""


class Source(Protocol):
    """Where events come from; `ray_ggsm.data.sources.source_of` chooses one from the config."""

    def tables(self) -> dict[str, Keys]:
        """Every table by name. Opens no file."""

    def load(self, connection: duckdb.DuckDBPyConnection, shard: int, shards: int, empty: bool) -> None:
        """Create each table with the rows of one shard of users, and add unusable rows to the table `rejected`.

        Args:
            connection: a database with the table `rejected`.
            shard: position of the shard, of `shards`; shard 0 also reports lines that belong to no user.
            shards: number of shards.
            empty: only create the tables with their columns.

        Raises:
            InputError: the source is not there, or its tables are not as the config says.
        """

    def state(self) -> State:
        """What the content depends on: it changes when an input changes. Reads no event.

        Raises:
            InputError: the source is not there.
        """

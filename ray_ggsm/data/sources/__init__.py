"""Sources of events, one file each."""

from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.source_config import FilesSource
from ray_ggsm.data.sources.files import EventFiles
from ray_ggsm.data.sources.journey import Journey
from ray_ggsm.data.sources.source import Source


def source_of(config: DataConfig) -> Source:
    """The source that the config names."""
    if isinstance(config.source, FilesSource):
        return EventFiles(config.source.tables, _amount_columns(config))
    return Journey()


def _amount_columns(config: DataConfig) -> dict[str, set[str]]:
    """Per table, the amounts that are plain column names: those must be numbers."""
    amounts: dict[str, set[str]] = {}
    for modality in config.modalities.values():
        if modality.amount is not None and modality.amount.isidentifier():
            amounts.setdefault(modality.table, set()).add(modality.amount)
    return amounts

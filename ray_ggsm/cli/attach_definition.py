"""The job `attach-definition`: gives an encoder that was saved without one the definition of its user rows."""

import json

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, load
from ray_ggsm.data import definition
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.definition import RowDefinition, define
from ray_ggsm.data.fit import column_types
from ray_ggsm.data.schema import UTC
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.description import EncoderDescription, SavedEncoder


class AttachDefinitionConfig(Config):
    """An encoder, and the experiment that it was trained by."""

    experiment: str
    """Config file of the experiment; its `data` section says what the rows were."""
    encoder: str
    """Directory of the saved encoder, or a pattern that matches exactly one."""


def attach_definition(config: AttachDefinitionConfig) -> None:
    """Write rows.json beside the encoder.

    Raises:
        InputError: the experiment's rows are not what the encoder reads, or it has another definition already.
    """
    encoder = SavedEncoder.find(config.encoder)
    found, there = _definition(config, encoder), definition.read(encoder.location)
    if there is not None and there.digest != found.digest:
        raise InputError(
            f"{encoder.location} has the row definition {there.digest} already, and {config.experiment} gives "
            f"{found.digest}; an encoder's definition never changes"
        )
    definition.write(found, encoder.location)
    file = storage.join(encoder.location, definition.FILE)
    print(f"attach-definition: {file} is definition {found.digest}", flush=True)


def preview(config: AttachDefinitionConfig) -> str:
    """The definition that would be written; raises like `attach_definition`."""
    return json.dumps(definition.plain(_definition(config, SavedEncoder.find(config.encoder))), indent=2)


def _definition(config: AttachDefinitionConfig, encoder: SavedEncoder) -> RowDefinition:
    data, description = load(Experiment, config.experiment).data, encoder.description
    found = define(data, column_types(data), _vocabularies(data, description), age_timezone=UTC)
    rows = [f"{name} (keep {modality.keep})" for name, modality in found.modalities.items()]
    reads = [f"{modality.name} (keep {modality.keep})" for modality in description.modalities]
    _check("modalities", rows, reads, config, encoder)
    _check("features", list(found.feature_names), list(description.feature_names), config, encoder)
    return found


def _check(what: str, rows: list[str], reads: list[str], config: AttachDefinitionConfig, encoder: SavedEncoder) -> None:
    if rows != reads:
        extra, missing = [n for n in rows if n not in reads], [n for n in reads if n not in rows]
        differ = f"not read: {_listed(extra)}; missing: {_listed(missing)}" if extra or missing else "in another order"
        raise InputError(
            f"{config.experiment}: its rows have other {what} than {encoder.location} reads ({differ}); name the "
            "experiment that the encoder was trained by"
        )


def _vocabularies(data: DataConfig, encoder: EncoderDescription) -> dict[str, tuple[str, ...]]:
    """The values of each feature with `per`: they stand in the names of the encoder's features."""
    found: dict[str, tuple[str, ...]] = {}
    for feature in data.features:
        if feature.per is not None:
            first = feature.number_name(feature.windows[0] if feature.windows else None, "")
            found[feature.name] = tuple(n.removeprefix(first) for n in encoder.feature_names if n.startswith(first))
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"

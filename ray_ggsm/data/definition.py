"""What a user row is: the file `rows.json` beside the prepared rows and beside each encoder that was trained on them.

Rows carry the definition's digest. So whoever makes rows for an encoder, tonight or in a year, can make them exactly as
those that it was trained on, and rows that were made in another way are refused. The digest is not part of the
encoder's: a table need not be encoded again when an encoder gets a definition.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Literal

import pyarrow as pa
from pydantic import JsonValue, model_validator

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record, digest, identity
from ray_ggsm.data.config import DataConfig, FeatureConfig
from ray_ggsm.data.event_details import field_types
from ray_ggsm.data.modality_config import ModalityConfig
from ray_ggsm.data.names import TimeZone
from ray_ggsm.data.pseudonyms import key_id, read_key
from ray_ggsm.data.schema import event_type, future_type
from ray_ggsm.data.source_choice import row_columns, source_of
from ray_ggsm.data.source_config import StoreSource
from ray_ggsm.data.store.layout import require_layout

FILE = "rows.json"
FORMAT = 1


class TableDefinition(Record):
    """One table of events, or of static facts about users."""

    user: str
    """Column of the user."""
    time: str | None
    """Column of the time; None: the table is static."""
    columns: dict[str, str]
    """Column that an expression uses -> its DuckDB type; empty where the source's tables are always the same."""


class FeatureDefinition(Record):
    """Numbers of the tabular vector that one feature gives."""

    feature: FeatureConfig
    values: tuple[str, ...] | None = None
    """With `per`: the values that have a number each, in this order."""

    @model_validator(mode="after")
    def _values_with_per(self) -> "FeatureDefinition":
        if (self.feature.per is None) != (self.values is None) or len(set(self.values or ())) < len(self.values or ()):
            raise ValueError("a feature has different values exactly if it has 'per'")
        return self


class RowDefinition(Record):
    """The content of rows.json."""

    format: int = FORMAT
    """Version of this file's layout."""
    timezone: TimeZone
    """Cutoffs are midnights of this zone, and SQL sees times in it."""
    age_timezone: TimeZone
    """Ages follow the clock of this zone; UTC for encoders that were trained before ages followed the calendar."""
    history_days: int
    """Length of the history."""
    tables: dict[str, TableDefinition]
    modalities: dict[str, ModalityConfig]
    """By name, in the order of the input; `future` says nothing about rows and is left out."""
    features: tuple[FeatureDefinition, ...]
    """In the order of the tabular vector."""
    user_ids: Literal["plain", "keyed_hash"] = "plain"
    """How users are named: as in the source, or by `ray_ggsm.data.pseudonyms`."""
    key_id: str | None = None
    """With `keyed_hash`: which key it was."""

    @property
    def digest(self) -> str:
        """16 hex digits that rows of this definition carry."""
        return digest(self)

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """Feature with `per` -> its values."""
        return {f.feature.name: f.values for f in self.features if f.values is not None}

    @property
    def types(self) -> dict[str, dict[str, str]]:
        """Table -> column -> DuckDB type."""
        return {name: dict(table.columns) for name, table in self.tables.items()}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the tabular numbers, in order."""
        return tuple(
            f.feature.number_name(days, value)
            for f in self.features
            for days in f.feature.windows or (None,)
            for value in f.values or ((None,) if f.values is None else ())
        )

    def events(self) -> dict[str, pa.StructType]:
        """Modality -> the Arrow type of its events."""
        return events_of(self.modalities, self.age_timezone)


def events_of(modalities: Mapping[str, ModalityConfig], zone: str) -> dict[str, pa.StructType]:
    """Modality -> the Arrow type of its events."""
    return {name: event_type(zone, field_types(m), m.parts is not None) for name, m in modalities.items()}


def future_of(config: DataConfig, zone: str) -> pa.StructType:
    """The Arrow type of the events of the future: with the fields and parts that any modality has there."""
    kinds: dict[str, pa.DataType] = {}
    for modality in config.future_modalities.values():
        kinds |= {field.name: field.type for field in field_types(modality) or ()}
    parts = any(modality.parts is not None for modality in config.future_modalities.values())
    fields = pa.struct(list(kinds.items())) if kinds else None
    return future_type(event_type(zone, fields, parts))


def define(
    config: DataConfig,
    types: Mapping[str, Mapping[str, str]],
    vocabularies: Mapping[str, tuple[str, ...]],
    age_timezone: str | None = None,
) -> RowDefinition:
    """The definition of the rows of a config.

    Args:
        config: tables, modalities, features, time zone, history.
        types: table -> column -> DuckDB type; columns that only labels use are left out.
        vocabularies: feature with `per` -> its values.
        age_timezone: zone of ages; None: that of the config.
    """
    zone, used, key = config.snapshots.timezone, row_columns(config), named_by(config)
    return RowDefinition(
        timezone=zone,
        age_timezone=age_timezone or zone,
        history_days=config.snapshots.history_days,
        tables={
            name: TableDefinition(
                user=keys.user,
                time=keys.time,
                columns={c: kind for c, kind in sorted(types.get(name, {}).items()) if c.lower() in used.get(name, ())},
            )
            for name, keys in source_of(config).tables().items()
            if name in used
        },
        modalities={name: _without_future(modality) for name, modality in config.modalities.items()},
        features=tuple(FeatureDefinition(feature=f, values=vocabularies.get(f.name)) for f in config.features),
        user_ids="plain" if key is None else "keyed_hash",
        key_id=key,
    )


def key_of(config: DataConfig) -> bytes | None:
    """The key of pseudonyms; None where users are named as in the source. Raises like `read_key`."""
    return None if config.users.key_file is None else read_key(config.users.key_file)


def named_by(config: DataConfig) -> str | None:
    """Which key (`key_id`) the pseudonyms have that name users in rows, whether rows are the first to have them or the
    event store has them already; None: users are named as in the source.

    Raises:
        InputError: both would make pseudonyms, or as `read_key`.
    """
    key = key_of(config)
    in_store = require_layout(config.source.location).key_id if isinstance(config.source, StoreSource) else None
    if key is not None and in_store is not None:
        raise InputError(
            "data.users.key_file (`events.key_file`): leave it out; the event store names users by pseudonyms already"
        )
    return in_store if key is None else key_id(key)


def given(config: DataConfig) -> RowDefinition | None:
    """The definition that the config names, which fits the config; None where it names none.

    Raises:
        InputError: there is no such file, or the config's rows would be others.
    """
    if config.definition is None:
        return None
    definition = read_file(config.definition)
    check_same(definition, config, config.definition)
    return definition


def read(location: str) -> RowDefinition | None:
    """The definition in a directory, local or s3://; None where there is none.

    Raises:
        InputError: the file is damaged, or of another format.
    """
    file = storage.join(location, FILE)
    return read_file(file) if storage.exists(file) else None


def read_file(file: str) -> RowDefinition:
    """The definition in a file.

    Raises:
        InputError: there is none, or it is damaged or of another format.
    """
    if not storage.exists(file):
        raise InputError(f"{file}: no row definition here; give the file {FILE} beside an encoder or prepared rows")
    try:
        text = storage.read_text(file)
        found = json.loads(text)["format"]
        definition = RowDefinition.model_validate_json(text) if found == FORMAT else None
    except (ValueError, KeyError, TypeError, IsADirectoryError, RecursionError):
        raise InputError(f"{file}: this is no row definition; give the file {FILE} beside an encoder") from None
    if definition is None:
        raise InputError(f"{file}: expected a row definition of format {FORMAT}, found {found}")
    return definition


def write(definition: RowDefinition, location: str) -> None:
    """Write the definition into a directory, local or s3://."""
    storage.write_json(storage.join(location, FILE), plain(definition))


def plain(definition: RowDefinition) -> JsonValue:
    """The content of rows.json."""
    content: JsonValue = definition.model_dump(mode="json", exclude={"modalities": {"__all__": {"future"}}})
    return content


def check_same(definition: RowDefinition, config: DataConfig, where: str) -> None:
    """Refuse a config whose rows would be others than those of a definition.

    Args:
        definition: what rows must be.
        config: what rows would be; its tables may have more columns.
        where: file of the definition, for errors.

    Raises:
        InputError: naming the first config key that differs.
    """
    for key, wanted, found in _differences(definition, config):
        raise InputError(
            f"data.{key}: the rows of {where} were made with {_shown(wanted)}, but here it is {_shown(found)}; make it "
            "the same, or leave out data.definition and train an encoder on the new rows"
        )


def _differences(definition: RowDefinition, config: DataConfig) -> Iterator[tuple[str, object, object]]:
    """Config keys with the definition's value and the config's, where they differ."""
    yield from _differs("snapshots.timezone", definition.timezone, config.snapshots.timezone)
    yield from _differs("snapshots.history_days", definition.history_days, config.snapshots.history_days)
    tables = source_of(config).tables()
    for name, table in definition.tables.items():
        if name not in tables:
            yield f"source.tables.{name}", name, None
            continue
        yield from _differs(f"source.tables.{name}.user", table.user, tables[name].user)
        yield from _differs(f"source.tables.{name}.time", table.time, tables[name].time)
    yield from _differs("modalities", list(definition.modalities), list(config.modalities))
    for name, modality in definition.modalities.items():
        yield from _parts_differ(f"modalities.{name}", modality, _without_future(config.modalities[name]))
    yield from _differs("users.key_file", definition.key_id, named_by(config))
    yield from _differs("features", [f.feature.name for f in definition.features], [f.name for f in config.features])
    for i, (wanted, found) in enumerate(zip(definition.features, config.features, strict=True)):
        yield from _parts_differ(f"features.{i}", wanted.feature, found)


def _parts_differ(
    key: str, wanted: ModalityConfig | FeatureConfig, found: ModalityConfig | FeatureConfig
) -> Iterator[tuple[str, object, object]]:
    for name in type(wanted).model_fields:
        yield from _differs(f"{key}.{name}", identity(getattr(wanted, name)), identity(getattr(found, name)))


def _differs(key: str, wanted: object, found: object) -> Iterator[tuple[str, object, object]]:
    if wanted != found:
        yield key, wanted, found


def _without_future(modality: ModalityConfig) -> ModalityConfig:
    return modality.model_copy(update={"future": True})


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)

"""The tables that prepare writes and that train, embed and evaluate read.

User rows: who (`user_id`), when (`as_of`), per modality the events before `as_of` oldest first, the tabular numbers,
and optionally a query with its answer and the events after `as_of`. Event texts hold content only; when and how much
are numbers beside them. Section 1 of the paper (inputs), with the modalities as configuration.
"""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from ray_ggsm.model.modality import PARTS

UTC = "UTC"
TIME = pa.timestamp("us", UTC)
KEYS = [pa.field("user_id", pa.string()), pa.field("as_of", TIME)]
FEATURE_NAMES = b"feature_names"
"""Key in the metadata of the field `tabular`: its feature names as a JSON list."""
DEFINITION = b"row_definition"
"""Key in the metadata of the schema: digest of the row definition (`ray_ggsm.data.definition`)."""

DEAD_LETTER = pa.schema(
    [
        pa.field("split", pa.string()),
        *KEYS,
        pa.field("source", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""A rejected raw event (source: table, file and line where known) or a rejected user row (split, user_id, as_of)."""


def event_type(zone: str, fields: pa.StructType | None = None, parts: bool = False) -> pa.StructType:
    """The type of an event: time, text, amount (may be null) and, where it has them, named fields and parts.

    Args:
        zone: time zone of `time`.
        fields: named texts (string) and numbers (double), each may be null; None: there are none.
        parts: whether there is a list of parts.
    """
    more = [pa.field("fields", fields)] if fields is not None else []
    more += [pa.field("parts", PARTS)] if parts else []
    event = [pa.field("time", pa.timestamp("us", zone)), pa.field("text", pa.string())]
    return pa.struct([*event, pa.field("amount", pa.float32()), *more])


def future_type(event: pa.StructType) -> pa.StructType:
    """The type of an event of the future, which also names its modality."""
    return pa.struct([pa.field("modality", pa.string()), *event])


def user_row_schema(
    modalities: Mapping[str, pa.StructType],
    feature_names: Sequence[str],
    *,
    future: pa.StructType | None = None,
    zone: str = UTC,
    definition: str | None = None,
) -> pa.Schema:
    """The schema of user rows.

    Args:
        modalities: name -> type of its events.
        feature_names: names of the tabular numbers.
        future: type of the events after `as_of`, which then stand in the last column.
        zone: time zone of `as_of`; ages follow its clock.
        definition: digest of the row definition.
    """
    tabular = pa.field(
        "tabular", pa.list_(pa.float32()), metadata={FEATURE_NAMES: json.dumps(list(feature_names)).encode()}
    )
    keys = [KEYS[0], pa.field("as_of", pa.timestamp("us", zone))]
    events = [pa.field(name, pa.list_(event)) for name, event in modalities.items()]
    last = [pa.field("future", pa.list_(future))] if future is not None else []
    return pa.schema(
        [*keys, *events, tabular, *last], metadata={DEFINITION: definition.encode()} if definition else None
    )


def feature_names(schema: pa.Schema) -> tuple[str, ...]:
    """The names of the tabular features; empty when the rows carry none."""
    metadata: Mapping[bytes, bytes] = schema.field("tabular").metadata or {}
    return tuple(json.loads(metadata.get(FEATURE_NAMES, b"[]")))


def definition_digest(schema: pa.Schema) -> str | None:
    """The digest of the definition that rows were made by; None where they do not say."""
    metadata: Mapping[bytes, bytes] = schema.metadata or {}
    return metadata[DEFINITION].decode() if DEFINITION in metadata else None


def label_schema(labels: Sequence[str]) -> pa.Schema:
    """The schema of label tables: the key and one boolean column per label, null where it is undefined."""
    return pa.schema([*KEYS, *(pa.field(name, pa.bool_()) for name in labels)])

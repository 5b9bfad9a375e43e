"""The tables that prepare writes and that train, embed and evaluate read.

User rows: who (`user_id`), when (`as_of`), per modality the events before `as_of` oldest first, the tabular numbers,
and optionally a query with its answer and the events after `as_of`. Event texts hold content only; when and how much
are numbers beside them. Section 1 of the paper (inputs), with the modalities as configuration.
"""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
EVENT = pa.struct([pa.field("time", TIME), pa.field("text", pa.string()), pa.field("amount", pa.float32())])
"""An event; `amount` may be null."""
FUTURE_EVENT = pa.struct([pa.field("modality", pa.string()), *EVENT])
KEYS = [pa.field("user_id", pa.string()), pa.field("as_of", TIME)]
FEATURE_NAMES = b"feature_names"
"""Key in the metadata of the field `tabular`: its feature names as a JSON list."""

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


def user_row_schema(modalities: Sequence[str], feature_names: Sequence[str], future: bool) -> pa.Schema:
    """The schema of user rows; with `future`, the events of the future window stand in the last column."""
    tabular = pa.field(
        "tabular", pa.list_(pa.float32()), metadata={FEATURE_NAMES: json.dumps(list(feature_names)).encode()}
    )
    events = [pa.field(name, pa.list_(EVENT)) for name in modalities]
    return pa.schema([*KEYS, *events, tabular, *([pa.field("future", pa.list_(FUTURE_EVENT))] if future else [])])


def feature_names(schema: pa.Schema) -> tuple[str, ...]:
    """The names of the tabular features; empty when the rows carry none."""
    metadata: Mapping[bytes, bytes] = schema.field("tabular").metadata or {}
    return tuple(json.loads(metadata.get(FEATURE_NAMES, b"[]")))


def label_schema(labels: Sequence[str]) -> pa.Schema:
    """The schema of label tables: the key and one boolean column per label, null where it is undefined."""
    return pa.schema([*KEYS, *(pa.field(name, pa.bool_()) for name in labels)])

"""Rows as other libraries give them, mappings with lists of events, to the Arrow rows that encoders read.

Nothing is dropped on the way: an unknown key, a time without a zone, or what makes a row a dead letter elsewhere is an
error that names the row by its position.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.data.definition import RowDefinition
from ray_ggsm.data.schema import UTC, event_type, feature_names, user_row_schema
from ray_ggsm.data.validate import validate
from ray_ggsm.model.config import PROMPT
from ray_ggsm.model.description import EncoderDescription
from ray_ggsm.model.modality import Modality

UNREAD = ("user_id", "future", "answer")
"""Columns of prepared rows that no vector depends on."""
Row = Mapping[str, Any]


def row_schema(encoder: EncoderDescription, definition: RowDefinition | None) -> pa.Schema:
    """The columns that an encoder reads: as its definition says, or else what it reads of its modalities, in UTC."""
    if definition is not None:
        events, zone = definition.events(), definition.age_timezone
    else:
        events, zone = {m.name: _event_type(m) for m in encoder.modalities}, UTC
    schema = user_row_schema(events, encoder.feature_names, zone=zone)
    return schema.append(pa.field("query", pa.string()))


def arrow_rows(rows: Sequence[Row], schema: pa.Schema, instruction: str = "", reads_query: bool = True) -> pa.Table:
    """Validated user rows.

    Args:
        rows: mappings with `as_of`, a list of events per modality (oldest first), `tabular` where the encoder has
            features, and optionally `query`. Times are datetimes, or ISO 8601 texts, with an offset.
        schema: what the encoder reads (`row_schema`).
        instruction: what every row is asked; empty: what its `query` says.
        reads_query: whether the encoder reads `query`.

    Raises:
        InputError: a row is not as the schema says, or would be a dead letter.
    """
    plain = [_plain(row, schema, f"rows[{n}]") for n, row in enumerate(rows)]
    queries = {str(row["query"]) for row in plain if row.get("query")}
    if queries and not reads_query:
        raise InputError("rows: this kind of encoder reads no `query`; leave it out")
    if queries and instruction:
        raise InputError(f"rows: each is asked '{instruction}' already; leave out `query`")
    if prompts := sorted(query for query in queries if query.startswith(PROMPT)):
        raise InputError(f"rows: `query` is the soft prompt '{prompts[0]}', which exports do not take; give a text")
    try:
        table = pa.Table.from_pylist([{**row, "user_id": f"rows[{n}]"} for n, row in enumerate(plain)], schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InputError(f"rows: {' '.join(str(error).split())[:300]}; expected {_shown(schema)}") from None
    if instruction:
        table = table.set_column(table.column_names.index("query"), "query", pa.array([instruction] * len(table)))
    features = len(feature_names(schema))
    names = [field.name for field in schema if pa.types.is_list(field.type) and field.name != "tabular"]
    zone = schema.field("as_of").type.tz
    if not features:
        table = table.drop_columns(["tabular"])
    good, bad = validate(table, names, features, max_text_length=2**31 - 1, source="rows", zone=zone)
    if len(bad):
        first = bad.slice(0, 1).to_pylist()[0]
        raise InputError(f"{first['user_id']}: {first['reason']} ({first['detail']}); {len(bad)} rows in all are wrong")
    return good


def json_rows(rows: pa.Table, schema: pa.Schema) -> list[dict[str, object]]:
    """User rows as JSON can hold them: only what the encoder reads, with times as ISO 8601 texts."""
    chosen = rows.select([name for name in schema.names if name in rows.column_names])
    return [_without_times(row) for row in chosen.to_pylist()]


def _event_type(modality: Modality) -> pa.StructType:
    fields = [(name, pa.string()) for name in modality.text_fields]
    fields += [(name, pa.float64()) for name in modality.number_fields]
    return event_type(UTC, pa.struct(fields) if fields else None, modality.parts)


def _plain(row: Row, schema: pa.Schema, where: str) -> dict[str, object]:
    """A row whose keys are those of the schema, and whose times are instants."""
    if not isinstance(row, Mapping):
        raise InputError(
            f"{where}: expected a mapping of columns, found {type(row).__name__}; expected {_shown(schema)}"
        )
    found: dict[str, object] = {}
    for key, value in row.items():
        if key in UNREAD:
            continue
        if key not in schema.names:
            raise InputError(f"{where}.{key}: the encoder reads no such column; it reads {_shown(schema)}")
        found[key] = _value(value, schema.field(key).type, f"{where}.{key}")
    needed = [
        n for n in schema.names if n not in ("query", "user_id") and (n != "tabular" or len(feature_names(schema)))
    ]
    if missing := [name for name in needed if found.get(name) is None]:
        raise InputError(f"{where}.{missing[0]}: it is missing; expected {_shown(schema)}")
    return found


def _value(value: Any, kind: pa.DataType, where: str) -> Any:
    if value is None:
        return None
    if pa.types.is_timestamp(kind):
        return _instant(value, where)
    if pa.types.is_list(kind):
        if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
            raise InputError(f"{where}: expected a list, found {value!r:.80}; where there is nothing, give []")
        if pa.types.is_primitive(kind.value_type):
            return value
        return [_value(item, kind.value_type, f"{where}[{n}]") for n, item in enumerate(value)]
    if pa.types.is_struct(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected {kind}, found {type(value).__name__}")
        if odd := sorted(value.keys() - {field.name for field in kind}):
            raise InputError(
                f"{where}.{odd[0]}: the encoder reads {', '.join(f.name for f in kind)} here, and not this"
            )
        return {key: _value(item, kind.field(key).type, f"{where}.{key}") for key, item in value.items()}
    return value


def _instant(value: Any, where: str) -> dt.datetime:
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise InputError(f"{where}: expected a time such as 2024-03-01T08:15:00+00:00, found '{value}'") from None
    if not isinstance(value, dt.datetime) or value.tzinfo is None:
        raise InputError(f"{where}: expected a time with an offset, such as 2024-03-01T08:15:00+00:00, found {value!r}")
    return value


def _without_times(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items()}
    return value


def _shown(schema: pa.Schema) -> str:
    size = len(feature_names(schema))
    return ", ".join(f"{f.name} ({f.type})" if f.name != "tabular" else f"tabular ({size} numbers)" for f in schema)

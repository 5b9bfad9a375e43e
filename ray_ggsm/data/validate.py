"""User rows are checked whenever they are read: a wrong table is an error, a bad row is set aside with a reason.

All checks are vectorised per batch; a row is reported once, with the first reason that applies in the order below.

Legend: B rows, E events of one column over all rows.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import InputError
from ray_ggsm.data.schema import DEAD_LETTER, PARTS, UTC, event_type, future_type, user_row_schema

MISSING_KEY = "missing_key"
DUPLICATE_KEY = "duplicate_key"
INVALID_UTF8 = "invalid_utf8"
NULL_EVENT = "null_event"
NULL_TIME = "null_time"
NULL_TEXT = "null_text"
TEXT_TOO_LONG = "text_too_long"
NOT_BEFORE = "event_not_before_as_of"
BEFORE = "future_event_before_as_of"
UNORDERED = "events_not_oldest_first"
NULL_PART = "null_part"
UNKNOWN_MODALITY = "unknown_modality"
NON_FINITE = "non_finite_number"
TABULAR_LENGTH = "wrong_tabular_length"
EMPTY_HISTORY = "empty_history"

MAX_TEXT_LENGTH = 2000
"""Longest event text, query or answer, in characters."""
OPTIONAL_TEXTS = ("query", "answer")

Finding = tuple[str, np.ndarray, str]
"""Reason, rows it applies to (B, bool), and where in the row."""


def validate(
    table: pa.Table,
    modalities: Sequence[str],
    tabular_size: int,
    max_text_length: int = MAX_TEXT_LENGTH,
    *,
    source: str | None = None,
    split: str | None = None,
    zone: str = UTC,
) -> tuple[pa.Table, pa.Table]:
    """Split user rows into good ones, with the columns cast to `user_row_schema`, and dead letters.

    Args:
        table: user rows; unknown columns are kept.
        modalities: the columns that hold events.
        tabular_size: numbers every `tabular` list must have; with 0 the column may be absent.
        max_text_length: longest text in characters.
        source, split: file and split that dead letters name.
        zone: time zone whose clock ages follow; times stay the instants that they are.

    Raises:
        InputError: a column is missing or has the wrong type.
    """
    table = conform(table, modalities, tabular_size, source or "user rows", zone).combine_chunks()
    reason_B = np.full(len(table), None, dtype=object)
    detail_B = np.full(len(table), None, dtype=object)
    for reason, bad_B, where in _findings(table, modalities, tabular_size, max_text_length):
        new_B = bad_B & (reason_B == None)  # noqa: E711 (elementwise)
        reason_B[new_B], detail_B[new_B] = reason, where
    bad_B = pa.array(reason_B != None)  # noqa: E711 (elementwise)
    bad = table.filter(bad_B)
    columns = {
        "split": pa.nulls(len(bad), pa.string()) if split is None else pa.repeat(split, len(bad)),
        "user_id": _printable(bad["user_id"]),
        "as_of": bad["as_of"].cast(DEAD_LETTER.field("as_of").type),
        "source": pa.nulls(len(bad), pa.string()) if source is None else pa.repeat(source, len(bad)),
        "reason": pa.array(reason_B, pa.string()).filter(bad_B),
        "detail": pa.array(detail_B, pa.string()).filter(bad_B),
    }
    return table.filter(pc.invert(bad_B)), pa.table(columns).cast(DEAD_LETTER)


def enforce_share(bad: int, total: int, max_bad_share: float, where: str) -> None:
    """Raise InputError when more than `max_bad_share` of `total` rows were rejected."""
    if bad > max_bad_share * total:
        raise InputError(
            f"{where}: {bad} of {total} rows were rejected ({bad / total:.1%}, allowed are {max_bad_share:.1%}); "
            "see the dead letters for the reasons, correct the rows or raise max_bad_share"
        )


def conform(table: pa.Table, modalities: Sequence[str], tabular_size: int, where: str, zone: str = UTC) -> pa.Table:
    """The table with its columns cast to `user_row_schema`; InputError when one is missing or of another kind."""
    schema, future = table.schema, None
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise InputError(f"{where}: column '{twice[0]}' is there twice; write it once")
    events = {name: _with_details(schema, name, event_type(zone)) for name in modalities}
    if "future" in schema.names:
        future = _with_details(schema, "future", future_type(event_type(zone)))
    expected = list(user_row_schema(events, [], future=future, zone=zone))
    expected += [pa.field(name, pa.string()) for name in OPTIONAL_TEXTS if name in table.column_names]
    for field in expected:
        position = table.column_names.index(field.name) if field.name in table.column_names else -1
        if position < 0:
            if field.name == "tabular" and not tabular_size:
                table = table.append_column(field, pa.array([[]] * len(table), field.type))
                continue
            found = ", ".join(table.column_names)
            raise InputError(f"{where}: column '{field.name}' ({field.type}) is missing; the columns are: {found}")
        given = table.schema.field(position)
        if not _fits(given.type, field.type):
            raise InputError(f"{where}: column '{field.name}' must be {field.type}, found {given.type}")
        if given.type != field.type:
            target = pa.field(field.name, field.type, metadata=given.metadata)
            column = table[position]
            if pa.types.is_fixed_size_list(given.type):  # a null list has hidden items, which a list has not
                column = pa.chunked_array([pa.array(column.to_pylist(), pa.list_(given.type.value_type))])
            table = table.set_column(position, target, column.cast(field.type, safe=False))
    return table


def _with_details(schema: pa.Schema, name: str, event: pa.StructType) -> pa.StructType:
    """The type of the events in a column, with the fields and parts that they have there."""
    given = schema.field(name).type if name in schema.names else None
    if given is None or not _is_list(given) or not pa.types.is_struct(given.value_type):
        return event
    names = [field.name for field in given.value_type]
    details: list[pa.Field] = []
    if "fields" in names and pa.types.is_struct(kinds := given.value_type.field("fields").type):
        details.append(pa.field("fields", pa.struct([(kind.name, _of_field(kind.type)) for kind in kinds])))
    if "parts" in names:
        details.append(pa.field("parts", PARTS))
    return pa.struct([*event, *details])


def _of_field(given: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_string(given) or pa.types.is_large_string(given) else pa.float64()


def _is_list(given: pa.DataType) -> bool:
    return pa.types.is_list(given) or pa.types.is_large_list(given) or pa.types.is_fixed_size_list(given)


def _fits(given: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column can stand for the expected type without losing anything but precision."""
    if pa.types.is_list(expected):
        return _is_list(given) and _fits(given.value_type, expected.value_type)
    if pa.types.is_struct(expected):
        names = [field.name for field in expected]
        return (
            pa.types.is_struct(given)
            and [field.name for field in given] == names
            and all(_fits(given.field(name).type, expected.field(name).type) for name in names)
        )
    if pa.types.is_timestamp(expected):
        return pa.types.is_timestamp(given) and given.tz is not None
    if pa.types.is_string(expected):
        return pa.types.is_string(given) or pa.types.is_large_string(given)
    return pa.types.is_floating(given) or pa.types.is_integer(given) or pa.types.is_null(given)


def _findings(table: pa.Table, modalities: Sequence[str], tabular_size: int, max_text_length: int) -> Iterator[Finding]:
    yield MISSING_KEY, _mask(pc.or_(pc.is_null(table["user_id"]), pc.is_null(table["as_of"]))), "user_id, as_of"
    yield MISSING_KEY, _mask(pc.equal(pc.binary_length(table["user_id"]), 0)), "user_id"
    yield INVALID_UTF8, invalid_utf8(_array(table["user_id"])), "user_id"
    yield DUPLICATE_KEY, _repeated(table), "user_id, as_of"
    as_of_B = table["as_of"].cast(pa.int64()).fill_null(0).to_numpy()
    columns = [*modalities, *(["future"] if "future" in table.column_names else [])]
    for name in columns:
        yield from _event_findings(name, _array(table[name]), as_of_B, modalities, max_text_length)
    for name in OPTIONAL_TEXTS:
        if name in table.column_names:
            yield from _text_findings(_array(table[name]), np.arange(len(table)), len(table), max_text_length, name)
    count_B = sum(pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy() for name in modalities)
    yield EMPTY_HISTORY, np.broadcast_to(np.asarray(count_B) == 0, len(table)), ", ".join(modalities)
    tabular = _array(table["tabular"])
    length_B = pc.fill_null(pc.list_value_length(tabular), -1).to_numpy(zero_copy_only=False)
    yield TABULAR_LENGTH, length_B != tabular_size, f"tabular (expected {tabular_size} numbers)"
    numbers_E, row_E = tabular.flatten().to_numpy(zero_copy_only=False), _parents(tabular)
    yield NON_FINITE, _rows(~np.isfinite(numbers_E.astype(np.float64)), row_E, len(table)), "tabular"


def _event_findings(
    name: str, column: pa.ListArray, as_of_B: np.ndarray, modalities: Sequence[str], max_text_length: int
) -> Iterator[Finding]:
    """Yield what is wrong with the events of one column."""
    events, row_E, B = column.flatten(), _parents(column), len(column)
    yield NULL_EVENT, _rows(_mask(pc.is_null(events)), row_E, B), name
    time, words, amount = (pc.struct_field(events, field) for field in ("time", "text", "amount"))
    yield NULL_TIME, _rows(_mask(pc.is_null(time)), row_E, B), f"{name}.time"
    empty_E = _mask(pc.equal(pc.binary_length(words), 0))
    yield NULL_TEXT, _rows(empty_E | (_mask(pc.is_null(words)) & ~_has_details(events)), row_E, B), f"{name}.text"
    yield from _text_findings(words, row_E, B, max_text_length, f"{name}.text")
    time_E = pc.fill_null(time.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    if name == "future":
        yield BEFORE, _rows(time_E < as_of_B[row_E], row_E, B), f"{name}.time"
        known = pc.is_in(pc.struct_field(events, "modality"), value_set=pa.array(list(modalities), pa.string()))
        yield UNKNOWN_MODALITY, _rows(~_mask(known), row_E, B), f"{name}.modality"
    else:
        yield NOT_BEFORE, _rows(time_E >= as_of_B[row_E], row_E, B), f"{name}.time"
    backwards_E = np.zeros(len(time_E), dtype=bool)
    backwards_E[1:] = (time_E[1:] < time_E[:-1]) & (row_E[1:] == row_E[:-1])
    yield UNORDERED, _rows(backwards_E, row_E, B), f"{name}.time"
    amount_E = pc.fill_null(amount, 0).to_numpy(zero_copy_only=False)
    yield NON_FINITE, _rows(~np.isfinite(amount_E), row_E, B), f"{name}.amount"
    yield from _detail_findings(name, events, row_E, B, max_text_length)


def _detail_findings(
    name: str, events: pa.StructArray, row_E: np.ndarray, B: int, max_text_length: int
) -> Iterator[Finding]:
    """Yield what is wrong with the fields and parts of one column's events."""
    kinds = {field.name: field.type for field in events.type}
    for field in kinds.get("fields", ()):
        values = pc.struct_field(events, ["fields", field.name])
        if pa.types.is_string(field.type):
            yield from _text_findings(values, row_E, B, max_text_length, f"{name}.fields.{field.name}")
        else:
            numbers_E = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
            yield NON_FINITE, _rows(~np.isfinite(numbers_E), row_E, B), f"{name}.fields.{field.name}"
    if "parts" in kinds:
        listed = pc.struct_field(events, "parts")
        parts, row_P = listed.flatten(), row_E[_parents(listed)]
        words, weights = pc.struct_field(parts, "text"), pc.struct_field(parts, "weight")
        empty_P = _mask(pc.fill_null(pc.equal(pc.binary_length(words), 0), True))
        yield NULL_PART, _rows(empty_P, row_P, B), f"{name}.parts"
        yield from _text_findings(words, row_P, B, max_text_length, f"{name}.parts")
        weight_P = weights.to_numpy(zero_copy_only=False)
        yield NON_FINITE, _rows(~np.isfinite(weight_P), row_P, B), f"{name}.parts"


def _has_details(events: pa.StructArray) -> np.ndarray:
    """Whether events have a field or a part, which may stand instead of a text, (E,) bool."""
    kinds = {field.name: field.type for field in events.type}
    found = [pc.is_valid(pc.struct_field(events, ["fields", field.name])) for field in kinds.get("fields", ())]
    found += [pc.greater(pc.list_value_length(pc.struct_field(events, "parts")), 0)] if "parts" in kinds else []
    return np.any([np.zeros(len(events), dtype=bool), *map(_mask, found)], axis=0)


def _text_findings(text: pa.Array, row_E: np.ndarray, B: int, max_text_length: int, where: str) -> Iterator[Finding]:
    invalid_E = invalid_utf8(text)
    yield INVALID_UTF8, _rows(invalid_E, row_E, B), where
    # bytes first: counting characters needs valid text
    long_E = _mask(pc.greater(pc.binary_length(text), max_text_length)) & ~invalid_E
    if long_E.any():
        candidates = np.flatnonzero(long_E)
        long_E[candidates] = _mask(pc.greater(pc.utf8_length(text.take(pa.array(candidates))), max_text_length))
    yield TEXT_TOO_LONG, _rows(long_E, row_E, B), f"{where} (more than {max_text_length} characters)"


def invalid_utf8(text: pa.Array) -> np.ndarray:
    """Find strings or bytes that are no UTF-8, (E,) bool: one pass over all, and one per value only when it fails."""
    try:
        text.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return np.array([value is not None and not _decodes(value) for value in text.cast(pa.binary()).to_pylist()])
    return np.zeros(len(text), dtype=bool)


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _printable(column: pa.ChunkedArray) -> pa.Array:
    values = _array(column).cast(pa.binary()).to_pylist()
    return pa.array([None if value is None else value.decode(errors="replace") for value in values], pa.string())


def _repeated(table: pa.Table) -> np.ndarray:
    """Mark rows whose key stands in an earlier row of this table, (B,) bool."""
    keys = pa.table(
        {"user": table["user_id"].cast(pa.binary()), "as_of": table["as_of"], "row": pa.array(np.arange(len(table)))}
    )
    first = keys.group_by(["user", "as_of"]).aggregate([("row", "min")])["row_min"].to_numpy()
    repeated_B = np.ones(len(table), dtype=bool)
    repeated_B[first] = False
    return repeated_B


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _parents(column: pa.ListArray) -> np.ndarray:
    return pc.list_parent_indices(column).to_numpy(zero_copy_only=False)


def _mask(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(values, False)).astype(bool)


def _rows(bad_E: np.ndarray, row_E: np.ndarray, B: int) -> np.ndarray:
    """Mark rows with at least one bad event, (B,) bool."""
    bad_B = np.zeros(B, dtype=bool)
    bad_B[row_E[bad_E]] = True
    return bad_B

"""Tables of users and times that vectors are wanted for: whatever they come in, and the instants that they mean."""

import datetime as dt
from collections.abc import Iterable
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from ray_ggsm.config import InputError
from ray_ggsm.tables.moments import EPOCH, instant, microseconds


class ArrowStream(Protocol):
    """Anything that hands out Arrow data: tables, frames of pandas and Polars, readers."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The data as a capsule."""


Keys: TypeAlias = ArrowStream | Iterable[pa.RecordBatch]
"""Users and times, in any of the forms that they come in."""
PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def as_table(keys: Keys, reserved: Iterable[str]) -> pa.Table:
    """Users and times as an Arrow table with the columns `user_id` (text) and `time` at least.

    Raises:
        InputError: a column is missing, has another type or a reserved name, or a user is null.
    """
    table = _arrow(keys)
    table = table.cast(pa.schema([_plain(f) for f in table.schema], table.schema.metadata))
    for name in ("user_id", "time"):
        if table.column_names.count(name) != 1:
            found = ", ".join(table.column_names)
            raise InputError(f"join: expected one column '{name}' beside others, found the columns {found}")
    if taken := [name for name in reserved if name in table.column_names]:
        raise InputError(f"join: the result has a column '{taken[0]}' of its own; give yours another name")
    users = table["user_id"]
    kind = users.type.value_type if pat.is_dictionary(users.type) else users.type
    if not (pat.is_string(kind) or pat.is_large_string(kind)):
        raise InputError(f"join: expected texts in the column 'user_id', found {users.type}")
    if users.null_count:
        raise InputError(f"join: {users.null_count:,} of {len(users):,} rows have no user_id; leave them out")
    return table


def _arrow(keys: Keys) -> pa.Table:
    if hasattr(keys, "__arrow_c_stream__"):
        return pa.table(keys)
    batches = list(keys) if isinstance(keys, Iterable) else []
    if not batches or not all(isinstance(batch, pa.RecordBatch) for batch in batches):
        raise InputError("join: expected an Arrow table, a pandas frame or Arrow record batches")
    return pa.Table.from_batches(batches)


def _plain(column: pa.Field) -> pa.Field:
    """A column of views as one of plain values: Arrow cannot take rows out of views."""
    kinds = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return column.with_type(kinds.get(column.type, column.type))


def instants(values: pa.ChunkedArray, name: str, zone: str | None) -> np.ndarray:
    """The instants of a column of timestamps or dates, in microseconds since 1970, rounded down, int64 (N,).

    Args:
        values: the column.
        name: its name, for errors.
        zone: time zone that naive timestamps and dates (their midnight) are in; None: UTC.

    Raises:
        InputError: it has another type, or nulls.
    """
    kind = values.type
    if not (pat.is_timestamp(kind) or pat.is_date(kind)):
        raise InputError(f"join: expected timestamps or dates in the column '{name}', found {kind}")
    if values.null_count:
        raise InputError(f"join: {values.null_count:,} of {len(values):,} rows have no '{name}'; leave them out")
    if pat.is_date(kind):
        values, kind = values.cast(pa.timestamp("ms")), pa.timestamp("ms")
    number_N = values.cast(pa.int64()).to_numpy()
    factor = PER_SECOND[kind.unit]
    shown_N = number_N // (factor // 1_000_000) if factor > 1_000_000 else number_N * (1_000_000 // factor)
    if kind.tz is not None:
        return shown_N
    distinct, place_N = np.unique(shown_N, return_inverse=True)
    return np.array([_instant(shown, name, zone) for shown in distinct.tolist()], dtype=np.int64)[place_N]


def _instant(shown: int, name: str, zone: str | None) -> int:
    try:
        return microseconds(instant((EPOCH + dt.timedelta(microseconds=shown)).replace(tzinfo=None), zone))
    except OverflowError as error:
        raise InputError(f"join: the column '{name}' has a time that no calendar has") from error

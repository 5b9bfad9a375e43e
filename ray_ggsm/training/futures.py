"""Future events of training rows as flat arrays, with what occurs in them.

Legend: B rows, E future events.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.clock import age_days, wall_clock, wall_clock_of_as_of
from ray_ggsm.model.ragged import list_lengths


@dataclass(frozen=True)
class Futures:
    """Future events of some rows as flat arrays."""

    row_E: np.ndarray
    """int64: position of the event's row."""
    events: pa.StructArray
    days_E: np.ndarray
    """float: days after as_of on the clock of its time zone."""
    rows: int
    """B."""

    @classmethod
    def of(cls, rows: pa.Table) -> "Futures":
        """The events of the column `future`."""
        column = rows["future"].combine_chunks()
        row_E = np.repeat(np.arange(len(rows)), list_lengths(column))
        events = column.flatten()
        as_of_E = wall_clock_of_as_of(rows["as_of"])[row_E]
        time_E = wall_clock(events.field("time").cast(pa.timestamp("us", rows.schema.field("as_of").type.tz)))
        return cls(row_E, events, -age_days(as_of_E, time_E), len(rows))

    def sum(self, where_E: np.ndarray, weight_E: np.ndarray | None = None) -> np.ndarray:
        """Number of chosen events per row, or the sum of their weights, (B,)."""
        weight = None if weight_E is None else weight_E[where_E]
        return np.bincount(self.row_E[where_E], weights=weight, minlength=self.rows)

    def contents(self) -> Iterator[tuple[np.ndarray, pa.Array]]:
        """Rows and contents: a text of a modality, one of its parts, or a value of a text field."""
        modality = self.events.field("modality")
        texts = pc.binary_join_element_wise(modality, self.events.field("text"), ": ")
        fields = [pc.binary_join_element_wise(f, values, " = ") for f, values in text_fields(self.events)]
        for values in (texts, *fields):
            here = pc.is_valid(values).to_numpy(zero_copy_only=False)
            yield self.row_E[here], values.filter(pa.array(here))
        if self.events.type.get_field_index("parts") >= 0:
            parts = self.events.field("parts")
            event = np.repeat(np.arange(len(parts)), list_lengths(parts))
            texts = parts.flatten().field("text")
            yield self.row_E[event], pc.binary_join_element_wise(modality.take(pa.array(event)), texts, " of ")


def text_fields(events: pa.StructArray) -> list[tuple[str, pa.Array]]:
    """Name and values of each text field of events."""
    return _fields(events, pa.types.is_string)


def number_fields(events: pa.StructArray) -> list[tuple[str, pa.Array]]:
    """Name and values of each number field of events."""
    return _fields(events, pa.types.is_floating)


def _fields(events: pa.StructArray, is_wanted: Callable[[pa.DataType], bool]) -> list[tuple[str, pa.Array]]:
    if events.type.get_field_index("fields") < 0:
        return []
    fields = events.field("fields")
    named = [fields.type.field(i) for i in range(fields.type.num_fields)]
    return [(field.name, fields.field(i)) for i, field in enumerate(named) if is_wanted(field.type)]


def is_new(rows: pa.Table, futures: Futures, field: str) -> np.ndarray:
    """Whether any future event has a value of this text field that no event of the row's history has, (B,)."""
    seen_rows, seen = [np.zeros(0, np.int64)], [pa.array([], pa.string())]
    for name in rows.column_names:
        if name == "future" or not (
            pa.types.is_list(rows[name].type) and pa.types.is_struct(rows[name].type.value_type)
        ):
            continue
        column = rows[name].combine_chunks()
        values = dict(text_fields(column.flatten())).get(field)
        if values is not None:
            seen_rows.append(np.repeat(np.arange(len(rows)), list_lengths(column)))
            seen.append(values)
    values = dict(text_fields(futures.events))[field]
    every = pa.concat_arrays([*seen, values]).dictionary_encode()
    code = pc.fill_null(every.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    key = np.concatenate([*seen_rows, futures.row_E]) * (len(every.dictionary) + 1) + code
    n_seen = len(key) - len(values)
    is_new_E = ~np.isin(key[n_seen:], key[:n_seen]) & (code[n_seen:] >= 0)
    return futures.sum(is_new_E) > 0

"""Events of user rows (Arrow) as flat arrays: the newest of the history, or a sample of the future.

Legend: M modalities, B rows, N chosen rows, E events (modality by modality, row by row, oldest first).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ray_ggsm.clock import age_days, wall_clock, wall_clock_of_as_of
from ray_ggsm.config import InputError
from ray_ggsm.hashing import hash64, scramble
from ray_ggsm.model.modality import PARTS, Modality, field_names
from ray_ggsm.model.ragged import list_lengths, ranks, starts


@dataclass(frozen=True)
class Events:
    """The events of some rows, modality by modality, row by row, oldest first."""

    count_MB: np.ndarray
    """int64: events per modality and row."""
    text_E: pa.Array
    """Null where an event has none."""
    age_E: np.ndarray
    """float32: days before as_of on the clock of its time zone; zero or less for future events."""
    amount_E: np.ndarray
    """float32: NaN where an event has none."""
    fields: Mapping[str, pa.Array] = field(default_factory=dict)
    """Name of a field that the template reads -> texts or numbers (E), null where an event has none."""
    parts_E: pa.ListArray | None = None
    """Texts and weights of parts; None where the template reads none."""

    def take(self, index_N: np.ndarray) -> "Events":
        """The events of the rows at these positions, in this order."""
        first_MN = starts(self.count_MB.reshape(-1)).reshape(self.count_MB.shape)[:, index_N]
        count_MN = self.count_MB[:, index_N]
        chosen = np.repeat(first_MN.reshape(-1), count_MN.reshape(-1)) + ranks(count_MN.reshape(-1))
        index = pa.array(chosen)
        return Events(
            count_MN,
            self.text_E.take(index),
            self.age_E[chosen],
            self.amount_E[chosen],
            {name: values.take(index) for name, values in self.fields.items()},
            None if self.parts_E is None else self.parts_E.take(index),
        )


def kept_events(rows: pa.Table, modalities: Sequence[Modality]) -> np.ndarray:
    """Number of events per modality and row that are kept, int64 (M, B)."""
    return np.stack([np.minimum(list_lengths(rows[m.name].combine_chunks()), m.keep) for m in modalities])


def read_events(rows: pa.Table, modalities: Sequence[Modality], newest: int) -> np.ndarray:
    """Number of events of each row that are read, the `newest` of those that modalities keep, int64 (B,)."""
    found: np.ndarray = np.minimum(kept_events(rows, modalities).sum(axis=0), newest)
    return found


def history_events(rows: pa.Table, modalities: Sequence[Modality]) -> Events:
    """The newest `keep` events per modality and row."""
    as_of_B = wall_clock_of_as_of(rows["as_of"])
    parts, counts = [], []
    for modality in modalities:
        column = rows[modality.name].combine_chunks()
        count_B = list_lengths(column)
        from_end = np.repeat(np.cumsum(count_B), count_B) - 1 - np.arange(count_B.sum())
        kept = column.flatten().filter(pa.array(from_end < modality.keep))
        count_B = np.minimum(count_B, modality.keep)
        _check_details(kept.type, modality, modality.name)
        parts.append((kept, np.repeat(as_of_B, count_B)))
        counts.append(count_B)
    return _events(parts, rows.schema.field("as_of").type.tz, np.stack(counts), modalities)


def future_events(rows: pa.Table, modalities: Sequence[Modality]) -> Events:
    """All events of each row's `future` column, oldest first per modality."""
    return _future_events(rows, modalities, np.arange(int(list_lengths(rows["future"].combine_chunks()).sum())))


def sample_future_events(rows: pa.Table, modalities: Sequence[Modality], limit: int, seed: int | np.ndarray) -> Events:
    """At most `limit` events of each row's `future` column, drawn without replacement; oldest first per modality.

    Modalities keep their order, and each keeps at most its `keep` oldest drawn events. A row's draw depends on
    the row's key and `seed` (one number, or one per row, uint64) only, not on the rows beside it.
    """
    column = rows["future"].combine_chunks()
    count_B = list_lengths(column)
    row_E, rank_E = np.repeat(np.arange(len(rows)), count_B), ranks(count_B)
    key_B = row_keys(rows) ^ np.asarray(seed, dtype=np.uint64)
    drawn = np.flatnonzero(drawn_of_rows(key_B, row_E, rank_E, limit))
    return _future_events(rows, modalities, drawn, keep=True)


def drawn_of_rows(key_B: np.ndarray, row_E: np.ndarray, rank_E: np.ndarray, limit: int) -> np.ndarray:
    """Which things of each row are drawn without replacement, at most `limit`, bool (E,), by the rows' keys.

    Args:
        key_B: uint64.
        row_E: the row of each thing, ascending.
        rank_E: its rank in the row.
        limit: number of things.
    """
    order = np.lexsort((scramble(scramble(key_B)[row_E] + rank_E.astype(np.uint64)), row_E))
    drawn_E = np.zeros(len(row_E), dtype=bool)
    drawn_E[order[rank_E < limit]] = True
    return drawn_E


def _future_events(rows: pa.Table, modalities: Sequence[Modality], chosen: np.ndarray, keep: bool = False) -> Events:
    """The future events at these positions among all rows' events; with `keep`, at most as many as a modality keeps."""
    column = rows["future"].combine_chunks()
    row_E = np.repeat(np.arange(len(rows)), list_lengths(column))[chosen]
    events = column.flatten().take(pa.array(chosen))
    names = np.array(events.field("modality").to_pylist(), dtype=object)
    as_of_B = wall_clock_of_as_of(rows["as_of"])
    parts, counts = [], []
    for modality in modalities:
        index = np.flatnonzero(names == modality.name)
        if keep:
            rank = np.arange(len(index)) - np.searchsorted(row_E[index], row_E[index])
            index = index[rank < modality.keep]
        if len(index):  # else the future need not have what only this modality has
            _check_details(events.type, modality, "future")
        parts.append((events.take(pa.array(index)), as_of_B[row_E[index]]))
        counts.append(np.bincount(row_E[index], minlength=len(rows)))
    return _events(parts, rows.schema.field("as_of").type.tz, np.stack(counts), modalities)


def row_keys(rows: pa.Table) -> np.ndarray:
    """A 64-bit key of each row's (user_id, as_of), uint64 (B,); equal on every machine."""
    as_of_B = rows["as_of"].cast(pa.int64()).to_pylist()
    return hash64(f"{user} {as_of}" for user, as_of in zip(rows["user_id"].to_pylist(), as_of_B, strict=True))


def no_events(modalities: Sequence[Modality], rows: int) -> Events:
    """Rows without events."""
    nothing, texts = np.zeros(0, dtype=np.float32), pa.array([], pa.string())
    text_fields, number_fields = field_names(modalities)
    fields = dict.fromkeys(text_fields, texts) | dict.fromkeys(number_fields, pa.array([], pa.float64()))
    return Events(np.zeros((len(modalities), rows), dtype=np.int64), texts, nothing, nothing, fields)


def _check_details(event: pa.StructType, modality: Modality, column: str) -> None:
    """Refuse events without the fields and parts that the encoder reads."""
    there = {event.field(i).name: event.field(i).type for i in range(event.num_fields)}
    fields = there.get("fields", pa.struct([]))
    kinds = {fields.field(i).name: fields.field(i).type for i in range(fields.num_fields)}
    wanted = dict.fromkeys(modality.text_fields, pa.string()) | dict.fromkeys(modality.number_fields, pa.float64())
    for name, kind in wanted.items():
        if kinds.get(name) != kind:
            raise InputError(
                f"column '{column}': the encoder reads the field '{name}' ({kind}), and the events have "
                f"{kinds.get(name, 'no such field')}; prepare the rows as those that it was trained on"
            )
    if modality.parts and "parts" not in there:
        raise InputError(
            f"column '{column}': the encoder reads the events' parts, and they have none; prepare the rows as "
            "those that it was trained on"
        )


def _events(
    chosen: list[tuple[pa.StructArray, np.ndarray]], zone: str, count_MB: np.ndarray, modalities: Sequence[Modality]
) -> Events:
    """Modality by modality: events, and what clocks showed at the as_of of each, in microseconds."""
    text = pa.concat_arrays([events.field("text").cast(pa.string()) for events, _ in chosen])
    times = [events.field("time").cast(pa.timestamp("us", zone)) for events, _ in chosen]
    age = [age_days(as_of, wall_clock(time)) for time, (_, as_of) in zip(times, chosen, strict=True)]
    amount = [events.field("amount").to_numpy(zero_copy_only=False) for events, _ in chosen]
    fields = {}
    for names, kind in zip(field_names(modalities), (pa.string(), pa.float64()), strict=True):
        for name in names:
            values = [_field(events, name, kind, m) for m, (events, _) in zip(modalities, chosen, strict=True)]
            fields[name] = pa.concat_arrays(values)
    parts = None
    if any(m.parts for m in modalities):
        listed = [
            events.field("parts").cast(PARTS) if m.parts and len(events) else pa.nulls(len(events), PARTS)
            for m, (events, _) in zip(modalities, chosen, strict=True)
        ]
        parts = pa.concat_arrays(listed)
    age_E, amount_E = np.concatenate(age).astype(np.float32), np.concatenate(amount).astype(np.float32)
    return Events(count_MB, text, age_E, amount_E, fields, parts)


def _field(events: pa.StructArray, name: str, kind: pa.DataType, modality: Modality) -> pa.Array:
    """The values of a field, null where the modality has no such field."""
    if not len(events) or name not in (*modality.text_fields, *modality.number_fields):
        return pa.nulls(len(events), kind)
    return events.field("fields").field(name).cast(kind)

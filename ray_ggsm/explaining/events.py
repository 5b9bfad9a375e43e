"""User rows without some of their events, and which rows are explained.

An event is known by its index among those of its row: modality by modality, oldest first.

Legend: B rows, K variants of rows, M modalities, E events of a row.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.hashing import hash64
from ray_ggsm.model.events import history_events
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.ragged import list_lengths, starts


def event_counts(rows: pa.Table, modalities: Sequence[Modality]) -> np.ndarray:
    """Events per modality and row, int64 (M, B)."""
    return np.stack([list_lengths(rows[m.name].combine_chunks()) for m in modalities])


def without(
    rows: pa.Table, modalities: Sequence[Modality], row_K: np.ndarray, dropped: Sequence[np.ndarray]
) -> pa.Table:
    """K variants of rows, in each of which the row `row_K` lacks the `dropped` events. All other columns stay as they
    are: the features, `as_of`, and so the ages of the other events."""
    variants = rows.take(pa.array(row_K))
    before_K = np.zeros(len(row_K), dtype=np.int64)
    variant = np.repeat(np.arange(len(row_K)), [len(each) for each in dropped])
    index = np.concatenate([np.zeros(0, dtype=np.int64), *dropped]).astype(np.int64)
    for modality in modalities:
        column = variants[modality.name].combine_chunks()
        count_K = list_lengths(column)
        rank = index - before_K[variant]
        here = (rank >= 0) & (rank < count_K[variant])
        kept = np.ones(int(count_K.sum()), dtype=bool)
        kept[starts(count_K)[variant[here]] + rank[here]] = False
        lengths_K = count_K - np.bincount(variant[here], minlength=len(row_K))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths_K)]).astype(np.int32))
        lists = pa.ListArray.from_arrays(offsets, column.flatten().filter(pa.array(kept))).cast(column.type)
        variants = variants.set_column(variants.column_names.index(modality.name), modality.name, lists)
        before_K += count_K
    return variants


def events_read(rows: pa.Table, modalities: Sequence[Modality], newest: int | None) -> pa.Table:
    """The rows with the events that an encoder reads alone, so that none takes the place of one that is taken away.

    Args:
        rows: user rows.
        modalities: each gives its newest `keep` events.
        newest: of these, a row's newest are read; None: all.
    """
    B = len(rows)
    count_MB = event_counts(rows, modalities)
    first_MB = np.cumsum(count_MB, axis=0) - count_MB
    keep_M = np.array([m.keep for m in modalities])
    older_MB = np.maximum(count_MB - keep_M[:, None], 0)
    dropped = [
        np.concatenate([np.arange(n) + first for n, first in zip(older_MB[:, b], first_MB[:, b], strict=True)])
        for b in range(B)
    ]
    rows = without(rows, modalities, np.arange(B), dropped)
    return rows if newest is None else _newest(rows, modalities, newest)


def _newest(rows: pa.Table, modalities: Sequence[Modality], newest: int) -> pa.Table:
    """The newest events of all modalities; of equal age, those of later modalities count as newer."""
    events, B = history_events(rows, modalities), len(rows)
    row_E = np.concatenate([np.repeat(np.arange(B), count_B) for count_B in events.count_MB])
    dropped = []
    for b in range(B):
        age_E = events.age_E[row_E == b]
        oldest_first = np.argsort(-age_E, kind="stable")
        dropped.append(oldest_first[: max(0, len(age_E) - newest)])
    return without(rows, modalities, np.arange(B), dropped)


def choose_rows(tables: Iterable[pa.Table], users: Sequence[str] | None, most: int, seed: int) -> pa.Table:
    """The newest row of each of these users or, without any named, of `most` users drawn by a hash; by user_id."""
    chosen: pa.Table | None = None
    for table in tables:
        table = table if users is None else table.filter(pc.is_in(table["user_id"], pa.array(users, pa.string())))
        chosen = table if chosen is None else pa.concat_tables([chosen, table])
        chosen = _newest_rows(chosen)
        if users is None:
            drawn = np.argsort(hash64(f"{seed} {user}" for user in chosen["user_id"].to_pylist()), kind="stable")
            chosen = chosen.take(pa.array(drawn[:most]))
    assert chosen is not None, "there is a table"
    return chosen.sort_by("user_id").combine_chunks()


def _newest_rows(rows: pa.Table) -> pa.Table:
    """The newest row of each user."""
    order = pc.sort_indices(rows, [("user_id", "ascending"), ("as_of", "descending")])
    rows = rows.take(order)
    user_B = rows["user_id"].to_numpy(zero_copy_only=False)
    first_B = np.ones(len(rows), dtype=bool)
    first_B[1:] = user_B[1:] != user_B[:-1]
    return rows.filter(pa.array(first_B))


def event_list(row: pa.Table, modalities: Sequence[Modality], texts: bool) -> list[dict[str, object]]:
    """What and when the events of one row are: `modality`, `time` and, if wanted, `text`."""
    found: list[dict[str, object]] = []
    for modality in modalities:
        events = row[modality.name].combine_chunks().flatten()
        for time, text in zip(events.field("time"), events.field("text"), strict=True):
            found.append({"modality": modality.name, "time": time.as_py(), **({"text": text.as_py()} if texts else {})})
    return found

"""The distinct texts of events and of their parts in a chunk of user rows: tasks that need no model."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.data.chunks import chunk_of, read_chunk
from ray_ggsm.data.validate import invalid_utf8
from ray_ggsm.hashing import hash64
from ray_ggsm.model.event_vectors import VectorStore


def distinct_texts(described: pa.Table, columns: Sequence[str], known: VectorStore) -> pa.Table:
    """Each text of a chunk (`chunk_of`) once, with its key and how often it occurs; null where it is known."""
    rows = read_chunk(chunk_of(described), columns)
    events = [pc.list_flatten(column.combine_chunks()) for column in rows.columns]
    bytes_of = [texts.cast(pa.binary()) for column in events for texts in event_texts(column)]
    counts = pc.value_counts(pa.chunked_array(bytes_of, pa.binary()).drop_null())
    valid = pa.array(~invalid_utf8(counts.field("values")))  # rows with such a text become dead letters
    texts, times = counts.field("values").filter(valid).cast(pa.string()), counts.field("counts").filter(valid)
    is_known = pa.array(known.open().has(texts))
    return pa.table(
        {
            "key": pa.array(hash64(texts)),
            "text": pc.if_else(is_known, pa.scalar(None, pa.string()), texts),
            "events": times,
            "found": pc.if_else(is_known, times, 0),
        }
    )


def event_texts(events: pa.StructArray) -> Iterator[pa.Array]:
    """The texts of events, with nulls, and the texts of their parts."""
    yield events.field("text")
    if events.type.get_field_index("parts") >= 0:
        yield pc.list_flatten(events.field("parts")).field("text")


def unknown_texts(counted: pa.Table) -> pa.Table:
    """The texts of `distinct_texts` that the store does not know."""
    return counted.select(["key", "text"]).filter(pc.is_valid(counted["text"]))

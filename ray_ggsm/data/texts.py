"""The distinct event texts of a chunk of user rows: the tasks before encoding, which need no model."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.data.chunks import chunk_of, read_chunk
from ray_ggsm.data.validate import invalid_utf8
from ray_ggsm.hashing import hash64
from ray_ggsm.model.event_vectors import VectorStore


def distinct_texts(described: pa.Table, columns: Sequence[str], known: VectorStore) -> pa.Table:
    """Each text of a chunk (`chunk_of`) once, with its key and how many events have it; null where it is known."""
    rows = read_chunk(chunk_of(described), columns)
    columns_of_texts = [
        pc.list_flatten(column.combine_chunks()).field("text").cast(pa.binary()) for column in rows.columns
    ]
    counts = pc.value_counts(pa.chunked_array(columns_of_texts, pa.binary()).drop_null())
    valid = pa.array(~invalid_utf8(counts.field("values")))  # rows with such a text become dead letters
    texts, events = counts.field("values").filter(valid).cast(pa.string()), counts.field("counts").filter(valid)
    is_known = pa.array(known.open().has(texts))
    return pa.table(
        {
            "key": pa.array(hash64(texts)),
            "text": pc.if_else(is_known, pa.scalar(None, pa.string()), texts),
            "events": events,
            "found": pc.if_else(is_known, events, 0),
        }
    )


def unknown_texts(counted: pa.Table) -> pa.Table:
    """The texts of `distinct_texts` that the store does not know."""
    return counted.select(["key", "text"]).filter(pc.is_valid(counted["text"]))

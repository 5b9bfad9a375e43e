"""The tasks of `events.py`, which need no model: the distinct event texts of a block."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.data.validate import invalid_utf8
from ray_ggsm.model.event_vectors import Store, keys
from ray_ggsm.on_ray.plan import Block, read_block


def distinct(described: pa.Table, columns: Sequence[str], known: Store) -> pa.Table:
    """Each text of a block once, with its key and how many events have it; known texts are left out by name."""
    rows = read_block(Block(**described.to_pylist()[0]), columns)
    said = [pc.list_flatten(column.combine_chunks()).field("text").cast(pa.binary()) for column in rows.columns]
    counts = pc.value_counts(pa.chunked_array(said, pa.binary()).drop_null())
    valid = pa.array(~invalid_utf8(counts.field("values")))  # rows with such a text become dead letters
    texts, events = counts.field("values").filter(valid).cast(pa.string()), counts.field("counts").filter(valid)
    is_known = pa.array(known.open().has(texts))
    return pa.table(
        {
            "key": pa.array(keys(texts)),
            "text": pc.if_else(is_known, pa.scalar(None, pa.string()), texts),
            "events": events,
            "found": pc.if_else(is_known, events, 0),
        }
    )


def unknown(counted: pa.Table) -> pa.Table:
    """Of `distinct` texts, those that the store does not know."""
    return counted.select(["key", "text"]).filter(pc.is_valid(counted["text"]))

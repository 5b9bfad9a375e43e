"""A hash of what a user row says, so that unchanged users are recognised without encoding them again."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from ray_ggsm.hashing import hash64_of_parts


def content_hashes(rows: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """int64 (B,): equal for rows with equal values in `columns` (strings, and lists of numbers or of events).

    It covers all bits that an encoder sees of these columns and nothing of the others, so that a new `as_of` alone
    changes nothing.
    """
    offset_B = np.arange(len(rows) + 1)
    parts = (part for name in columns for part in _parts(rows[name].combine_chunks(), offset_B))
    return hash64_of_parts(parts, len(rows)).view(np.int64)


def _parts(array: pa.Array, offset_B: np.ndarray) -> Iterator[list[bytes]]:
    """Bytes of the values offset[b]:offset[b + 1] for each row b, one list per leaf below the array."""
    kind = array.type
    missing_E = array.is_null().to_numpy(zero_copy_only=False)
    yield _slices(missing_E, offset_B)
    if pa.types.is_list(kind):
        length_E = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        yield _slices(length_E, offset_B)
        end_E = np.concatenate([[0], np.cumsum(length_E)])
        yield from _parts(array.flatten(), end_E[offset_B])
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _parts(array.field(field.name), offset_B)
    elif pa.types.is_string(kind):
        texts = [text.encode() for text in array.fill_null("").to_pylist()]
        end_E = np.concatenate([[0], np.cumsum([len(text) for text in texts], dtype=np.int64)])
        yield _slices(np.diff(end_E), offset_B)
        yield _slices(np.frombuffer(b"".join(texts), dtype=np.uint8), end_E[offset_B])
    else:
        numbers = array.cast(pa.int64()) if pa.types.is_timestamp(kind) else array
        yield _slices(numbers.fill_null(0).to_numpy(zero_copy_only=False), offset_B)


def _slices(values: np.ndarray, offset_B: np.ndarray) -> list[bytes]:
    data, width = values.tobytes(), values.itemsize
    return [data[a * width : b * width] for a, b in pairwise(offset_B)]

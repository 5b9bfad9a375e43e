"""Index arithmetic for groups of different lengths that lie one after the other.

Legend: G groups, N items of all groups together.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def starts(length_G: np.ndarray) -> np.ndarray:
    """Position of each group's first item, int64 (G,)."""
    return np.cumsum(length_G) - length_G


def ranks(length_G: np.ndarray) -> np.ndarray:
    """Position of each item in its group, from 0, int64 (N,)."""
    return np.arange(length_G.sum()) - np.repeat(starts(length_G), length_G)


def list_lengths(column: pa.Array) -> np.ndarray:
    """Items per list, int64; 0 for null."""
    lengths: np.ndarray = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)

"""Index arithmetic for groups of different lengths that lie one after the other.

Legend: G groups, N items of all groups together.
"""

import numpy as np


def starts(length_G: np.ndarray) -> np.ndarray:
    """Position of each group's first item, int64 (G,)."""
    return np.cumsum(length_G) - length_G


def ranks(length_G: np.ndarray) -> np.ndarray:
    """Position of each item in its group, from 0, int64 (N,)."""
    return np.arange(length_G.sum()) - np.repeat(starts(length_G), length_G)

"""Small numeric functions that several parts of the package share.

Legend: N rows, D width.
"""

from typing import Any

import numpy as np


def signed_log(values: Any, xp: Any = np) -> Any:
    """sign(x) log(1 + |x|): logarithmic for large values, close to the identity for small ones, and odd.

    `values` is a NumPy array, or a tensor with `xp=torch`; the result has its shape and type.
    """
    return xp.sign(values) * xp.log1p(xp.abs(values))


def unit(vector_ND: np.ndarray) -> np.ndarray:
    """The vectors scaled to length 1, (N, D) float64; zero vectors stay zero."""
    wide_ND = np.asarray(vector_ND, dtype=np.float64)
    return wide_ND / np.maximum(np.linalg.norm(wide_ND, axis=1, keepdims=True), 1e-30)


def prefix(vector_ND: np.ndarray, dimensions: int) -> np.ndarray:
    """The first dimensions at length 1, (N, dimensions) float32; vectors that have no more stay as they are."""
    if dimensions >= vector_ND.shape[1]:
        return vector_ND
    return unit(vector_ND[:, :dimensions]).astype(np.float32)

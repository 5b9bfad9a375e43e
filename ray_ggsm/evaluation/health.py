"""Signs of a collapsed encoder in its vectors, before any probe is fitted.

Vectors that nearly all point the same way (mean cosine near 1), dead dimensions and repeated vectors are such signs.
"""

import numpy as np

_DEAD = 1e-6
"""Standard deviation of a dead dimension, at most, relative to the root mean square of all numbers."""


def vector_health(vectors_ND: np.ndarray) -> dict[str, float]:
    """Readable name -> figure about N vectors of width D."""
    norm_N = np.linalg.norm(vectors_ND.astype(np.float32, copy=False), axis=1)
    sum_D = np.divide(vectors_ND, norm_N[:, None], where=norm_N[:, None] > 0, out=np.zeros_like(vectors_ND)).sum(
        axis=0, dtype=np.float64
    )
    rows, nonzero = len(vectors_ND), int((norm_N > 0).sum())
    scale = float(np.sqrt(np.mean(np.square(vectors_ND, dtype=np.float64))))
    dead = int((vectors_ND.std(axis=0) <= _DEAD * scale).sum())
    pairs = nonzero * (nonzero - 1)
    return {
        "vectors": rows,
        "dimensions": vectors_ND.shape[1],
        "mean length": float(norm_N.mean()),
        "shortest": float(norm_N.min()),
        "longest": float(norm_N.max()),
        "dead dimensions": dead,
        "mean cosine of two users": float((sum_D @ sum_D - nonzero) / pairs) if pairs else 0.0,
        "repeated vectors": rows - len(np.unique(vectors_ND, axis=0)),
    }

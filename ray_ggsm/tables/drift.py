"""How far two sets of vectors of the same users have moved apart.

Cosine compares vectors where they stand. Procrustes distance and neighbour overlap do not change when all vectors are
rotated together: they tell a new coordinate system (harmless to most models that are trained again) from a new opinion
about who resembles whom.

Legend: N users, D width; A width of the old vectors, B of the new ones, which may differ.
"""

from dataclasses import dataclass

import numpy as np

from ray_ggsm.numerics import unit


@dataclass(frozen=True)
class Moved:
    """How far the vectors of the same users moved.

    Each `unrelated` is the same measure after the new vectors were dealt to other users: the value for two sets of
    vectors that have nothing in common.
    """

    users: int
    """Number of users."""
    cosine: dict[str, float] | None
    """Cosines: mean, median, p05 (the lowest twentieth), smallest, unrelated (mean); None: the widths differ."""
    procrustes: float
    """Procrustes distance, 0 to 1."""
    procrustes_unrelated: float
    """Procrustes distance of unrelated vectors."""
    overlap: float
    """Mean share of the nearest users that are the same, 0 to 1."""
    overlap_unrelated: float
    """The same share for unrelated vectors."""
    k: int
    """Number of nearest users behind `overlap`."""


def moved(old_NA: np.ndarray, new_NB: np.ndarray, k: int, seed: int = 0) -> Moved:
    """Compare two sets of vectors of the same users, row by row; k is at most N - 1."""
    assert len(old_NA) == len(new_NB)
    dealt_NB = new_NB[_derangement(len(new_NB), seed)]
    cosine = None
    if old_NA.shape[1] == new_NB.shape[1]:
        cosine_N = cosines(old_NA, new_NB)
        cosine = {
            "mean": float(cosine_N.mean()),
            "median": float(np.median(cosine_N)),
            "p05": float(np.quantile(cosine_N, 0.05)),
            "smallest": float(cosine_N.min()),
            "unrelated": float(cosines(old_NA, dealt_NB).mean()),
        }
    return Moved(
        users=len(old_NA),
        cosine=cosine,
        procrustes=procrustes(old_NA, new_NB),
        procrustes_unrelated=procrustes(old_NA, dealt_NB),
        overlap=neighbour_overlap(old_NA, new_NB, k),
        overlap_unrelated=neighbour_overlap(old_NA, dealt_NB, k),
        k=min(k, len(old_NA) - 1),
    )


def cosines(old_ND: np.ndarray, new_ND: np.ndarray) -> np.ndarray:
    """Cosine of each user's two vectors, (N,) float64; 0 where one of them is zero."""
    return np.einsum("nd,nd->n", unit(old_ND), unit(new_ND))


def procrustes(old_NA: np.ndarray, new_NB: np.ndarray) -> float:
    """Distance that remains after the best rotation and scaling: 0 for the same shape, 1 for nothing in common.

    With both sets scaled to Frobenius norm 1 and s the singular values of old' new, it is sqrt(1 - (sum s)^2). It
    means little unless there are several times as many users as dimensions: otherwise a rotation fits almost anything.
    """
    old, new = (x.astype(np.float64) for x in (old_NA, new_NB))
    old, new = (x / max(float(np.linalg.norm(x)), 1e-30) for x in (old, new))
    fit = float(np.linalg.svd(old.T @ new, compute_uv=False).sum())
    return float(np.sqrt(max(0.0, 1.0 - fit * fit)))


def neighbour_overlap(old_NA: np.ndarray, new_NB: np.ndarray, k: int = 10) -> float:
    """Mean share of each user's k nearest users (by cosine) that are the same in both sets; k is at most N - 1."""
    k = min(k, len(old_NA) - 1)
    if k < 1:
        return 1.0
    old_Nk, new_Nk = _neighbours(old_NA, k), _neighbours(new_NB, k)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(old_Nk, new_Nk, strict=True)]))


def mean_similarity(vector_ND: np.ndarray) -> float:
    """Mean cosine of all pairs of different users; 1: all vectors point the same way."""
    N = len(vector_ND)
    unit_ND = unit(vector_ND)
    total = float(np.square(unit_ND.sum(axis=0)).sum()) - float(np.square(unit_ND).sum())
    return total / (N * (N - 1)) if N > 1 else 0.0


def _neighbours(vector_ND: np.ndarray, k: int) -> np.ndarray:
    unit_ND = unit(vector_ND)
    similarity_NN = unit_ND @ unit_ND.T
    np.fill_diagonal(similarity_NN, -np.inf)
    return np.argpartition(-similarity_NN, k - 1, axis=1)[:, :k]


def _derangement(N: int, seed: int) -> np.ndarray:
    """A random order in which no user keeps their place (unless there is only one)."""
    order_N = np.random.default_rng(seed).permutation(N)
    place_N = np.empty(N, dtype=np.int64)
    place_N[order_N] = np.roll(order_N, 1)
    return place_N

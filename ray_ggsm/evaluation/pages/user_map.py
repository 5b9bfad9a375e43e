"""A map of users: their vectors on the plane of the first two principal components.

Shapes: N users, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

MOST = 1500
"""Largest number of users on a map; more would hide each other."""


@dataclass(frozen=True)
class UserMap:
    """Positions and labels of some users."""

    points: np.ndarray
    """(N, 2) positions."""
    labels: Mapping[str, np.ndarray]
    """Label -> (N,) of 1, 0, NaN."""
    rows: int
    """Number of rows that these N are a random sample of."""
    variance: float
    """The plane's share of the variance of all rows; 0 if all vectors are equal."""


def user_map(vectors_ND: np.ndarray, labels: Mapping[str, np.ndarray], seed: int) -> UserMap:
    """The map of at most `MOST` users.

    Args:
        vectors_ND: finite; at least two rows and two dimensions.
        labels: label -> (N,) of 1, 0, NaN.
        seed: seed of the sample.
    """
    with np.errstate(invalid="ignore"):  # equal vectors have no variance to share
        pca = PCA(n_components=2, svd_solver="covariance_eigh").fit(vectors_ND)
    kept_N = np.sort(np.random.default_rng(seed).permutation(len(vectors_ND))[:MOST])
    return UserMap(
        points=pca.transform(vectors_ND[kept_N]),
        labels={name: values_N[kept_N] for name, values_N in labels.items()},
        rows=len(vectors_ND),
        variance=float(np.nan_to_num(pca.explained_variance_ratio_).sum()),
    )

"""Fitting a map between the spaces of two encoders, on anchors: users whose vectors of both are known.

- `rotation`: orthogonal Procrustes (Schoenemann, 1966) of the centred vectors, with one scale. It keeps all angles, so
  it can neither lose nor invent anything; where the widths differ it is a rotation of the wider space, cut.
- `linear`: ridge regression, its strength by leave-one-out error. It also weighs directions that one encoder
  has made larger than the other.
- `residual`: the linear map, and a small network of what it leaves.

Legend: N anchors, A width of the old vectors, B of the new ones, M the larger width.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeCV
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from ray_ggsm.config import InputError
from ray_ggsm.tables.config import MapConfig, MapKind
from ray_ggsm.tables.drift import cosines
from ray_ggsm.tables.space_map import Network, SpaceMap

HELD_OUT = 10
"""One anchor of so many is not fitted on: the agreement is measured there."""
UNIT = 0.05
"""Old vectors whose lengths differ by at most this from 1 are taken for unit vectors (int8 rounds lengths, too)."""


@dataclass(frozen=True)
class Fitted:
    """A map, and how well it does."""

    map: SpaceMap
    kind: MapKind
    """Its kind: the best one of those fitted."""
    anchors: int
    """Anchor rows that it was fitted on."""
    held_out: int
    """Further anchor rows, which the agreement was measured on."""
    agreement: Mapping[str, float]
    """Kind -> mean cosine of mapped and old vectors of the held-out anchors."""
    raw: float | None
    """The same for vectors that are not mapped; None: the widths differ."""


def fit_map(old_NA: np.ndarray, new_NB: np.ndarray, config: MapConfig) -> Fitted:
    """The best map from `new_NB` to `old_NA`, row by row the vectors of the same users; rows that are not finite are
    left out. Equal vectors give an equal map.

    Raises:
        InputError: the anchors are too few.
    """
    finite_N = np.isfinite(old_NA).all(axis=1) & np.isfinite(new_NB).all(axis=1)
    old_NA, new_NB = old_NA[finite_N], new_NB[finite_N]
    if len(old_NA) < (needed := config.needed(old_NA.shape[1], new_NB.shape[1])):
        raise InputError(
            f"{len(old_NA):,} anchor rows have vectors of both encoders, and a map of width {new_NB.shape[1]} to "
            f"{old_NA.shape[1]} needs {needed:,} ({config.per_dimension} per dimension)"
        )
    order_N = np.random.default_rng(0).permutation(len(old_NA))
    held_N, fit_N = order_N[::HELD_OUT], np.sort(np.concatenate([order_N[i::HELD_OUT] for i in range(1, HELD_OUT)]))
    with threadpool_limits(1):  # the same bits whatever the number of cores
        maps = {kind: _fitted(kind, old_NA[fit_N], new_NB[fit_N], config) for kind in config.kinds}
        agreement: dict[str, float] = {
            kind: float(cosines(old_NA[held_N], m(new_NB[held_N])).mean()) for kind, m in maps.items()
        }
    best = max(config.kinds, key=lambda kind: agreement[kind])
    same_width = old_NA.shape[1] == new_NB.shape[1]
    raw = float(cosines(old_NA[held_N], new_NB[held_N]).mean()) if same_width else None
    return Fitted(maps[best], best, len(fit_N), len(held_N), agreement, raw)


def _fitted(kind: MapKind, old_NA: np.ndarray, new_NB: np.ndarray, config: MapConfig) -> SpaceMap:
    old_NA, new_NB = old_NA.astype(np.float64), new_NB.astype(np.float64)
    normalise = bool((np.abs(np.linalg.norm(old_NA, axis=1) - 1) <= UNIT).all())
    weight_BA, offset_A = _rotation(old_NA, new_NB) if kind == "rotation" else _linear(old_NA, new_NB)
    network = None
    if kind == "residual":
        network, more_A = _network(old_NA - new_NB @ weight_BA - offset_A, new_NB, config.hidden)
        offset_A = offset_A + more_A
    return SpaceMap(weight_BA.astype(np.float32), offset_A.astype(np.float32), normalise, network)


def _rotation(old_NA: np.ndarray, new_NB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and offset of the best rotation and scale of the vectors about their means."""
    old_A, new_B = old_NA.mean(axis=0), new_NB.mean(axis=0)
    A, B = len(old_A), len(new_B)
    old_NM, new_NM = (
        np.pad(part, ((0, 0), (0, max(A, B) - part.shape[1]))) for part in (old_NA - old_A, new_NB - new_B)
    )
    turn_MM, fit = orthogonal_procrustes(new_NM, old_NM)
    weight_BA = turn_MM[:B, :A] * fit / max(float(np.square(new_NM @ turn_MM[:, :A]).sum()), 1e-30)
    return weight_BA, old_A - new_B @ weight_BA


def _linear(old_NA: np.ndarray, new_NB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spread = np.square(new_NB - new_NB.mean(axis=0)).sum() / new_NB.shape[1]  # mean eigenvalue of the scatter
    if not spread:
        raise InputError("all new vectors are equal")
    model = RidgeCV(alphas=spread * np.logspace(-5, 0, 6)).fit(new_NB, old_NA)
    return model.coef_.reshape(old_NA.shape[1], -1).T, np.broadcast_to(model.intercept_, old_NA.shape[1:])


def _network(left_NA: np.ndarray, new_NB: np.ndarray, hidden: int) -> tuple[Network, np.ndarray]:
    """A network of what a linear map leaves, and the offset of its output; it stops early on a tenth of the rows."""
    new_scale, left_scale = (max(float(np.sqrt(np.square(part).mean())), 1e-30) for part in (new_NB, left_NA))
    model = MLPRegressor(hidden_layer_sizes=(hidden,), early_stopping=True, alpha=1e-3, max_iter=300, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # early stopping keeps the best epoch
        model.fit(new_NB / new_scale, left_NA / left_scale)
    (weight_BH, weight_HA), (offset_H, more_A) = model.coefs_, model.intercepts_
    parts = (weight_BH / new_scale, offset_H, weight_HA * left_scale)
    return Network(*(part.astype(np.float32) for part in parts)), more_A * left_scale

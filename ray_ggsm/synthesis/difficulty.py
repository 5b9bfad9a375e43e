"""Which pairs are hard to align: S_d = 1 - cos(Emb(user and query), Emb(answer)). Paper, 3.2, eq. 3.

Legend: N pairs, H width of the embedding model.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ray_ggsm.encoders.rendered import row_texts
from ray_ggsm.model.modality import Modality
from ray_ggsm.numerics import unit
from ray_ggsm.synthesis.config import DifficultyConfig
from ray_ggsm.synthesis.pairs import Pair

EVENTS = 100
"""Newest events of a user that Emb(user and query) is told of."""


def pair_texts(rows: pa.Table, pairs: Sequence[Pair], modalities: Sequence[Modality]) -> tuple[list[str], list[str]]:
    """What Emb reads of each pair: its query and user, and its answer. The query comes first, then the user's newest
    events, so that a model that cuts takes the oldest ones away."""
    users = row_texts(rows, modalities, (), EVENTS)
    return [f"{pair.query}\n{users[pair.row]}" for pair in pairs], [pair.answer for pair in pairs]


def distances(left_NH: np.ndarray, right_NH: np.ndarray) -> np.ndarray:
    """S_d of the vectors of both sides: 1 - cos, row by row, (N,) float64 in [0, 2]."""
    cosine_N: np.ndarray = (unit(left_NH.astype(np.float64)) * unit(right_NH.astype(np.float64))).sum(axis=1)
    return 1 - cosine_N


def threshold(difficulty_N: np.ndarray, config: DifficultyConfig) -> float:
    """T_filter: the given one, or the quantile of the calibration set."""
    return config.threshold if config.threshold is not None else float(np.quantile(difficulty_N, config.quantile))


def hard(pairs: Sequence[Pair], difficulty_N: np.ndarray, threshold: float) -> list[Pair]:
    """D_hard: the pairs with S_d at or above the threshold."""
    return [pair for pair, difficulty in zip(pairs, difficulty_N.tolist(), strict=True) if difficulty >= threshold]

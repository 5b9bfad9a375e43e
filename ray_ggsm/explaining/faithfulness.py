"""The deletion test over many rows: how much further explained events move the score than random ones.

Shapes: N rows, one per user; R resamples.
"""

from collections.abc import Sequence

import numpy as np

from ray_ggsm.config import Record
from ray_ggsm.explaining.explainer import METHODS, ExplainedRow, Method

RESAMPLES = 2000
LEAST = 2
"""Rows of which an interval can be said."""


class Median(Record):
    """A median over users and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Faithfulness(Record):
    """What the deletion test found for one method."""

    users: int
    """Users with enough events."""
    explained: float
    """Median move of the score without the events that are ranked first, in the units of the score."""
    random: float
    """Median of the mean move without as many random events."""
    ratio: Median
    """Median over users of the first move divided by the second; 1 where neither moves the score."""
    endless: int = 0
    """Users whose score only the ranked events move, so that the ratio has no end: they are left out of it."""


class Completeness(Record):
    """How well integrated gradients sum to the score less the baseline's."""

    steps: int
    median: float
    """Median over users of the gap, as a share of the change of the score."""
    worst_tenth: float
    """Its 90th percentile."""


def faithfulness(rows: Sequence[ExplainedRow], seed: int) -> dict[Method, Faithfulness]:
    """The test's result by method; empty with fewer than two rows that could be tested."""
    moves = [row.moves for row in rows if row.moves is not None]
    found: dict[Method, Faithfulness] = {}
    for method in METHODS if len(moves) >= LEAST else ():
        if all(method in each.explained for each in moves):
            explained_N, random_N = (
                np.array(each) for each in zip(*((row.explained[method], row.random) for row in moves), strict=True)
            )
            if (result := compared(explained_N, random_N, seed)) is not None:
                found[method] = result
    return found


def compared(explained_N: np.ndarray, random_N: np.ndarray, seed: int) -> Faithfulness | None:
    """The moves of both deletions, user by user; None: for too few users there is a ratio."""
    endless_N, still_N = (random_N == 0) & (explained_N != 0), (random_N == 0) & (explained_N == 0)
    ratio_N = np.where(still_N, 1.0, explained_N / np.where(random_N == 0, 1.0, random_N))[~endless_N]
    if len(ratio_N) < LEAST:
        return None
    drawn_RN = np.random.default_rng(seed).integers(len(ratio_N), size=(RESAMPLES, len(ratio_N)))
    low, high = np.percentile(np.median(ratio_N[drawn_RN], axis=1), [2.5, 97.5])
    return Faithfulness(
        users=len(explained_N), endless=int(endless_N.sum()),
        explained=float(np.median(explained_N)), random=float(np.median(random_N)),
        ratio=Median(value=float(np.median(ratio_N)), low=float(low), high=float(high)),
    )  # fmt: skip


def completeness(rows: Sequence[ExplainedRow], steps: int) -> Completeness | None:
    """The gap of the gradients' rule over all rows; None without gradients."""
    found = [row.attribution for row in rows if row.attribution is not None and len(row.attribution.effect_E)]
    if not found:
        return None
    share_N = [abs(each.gap) / max(abs(each.score - each.baseline_score), 1e-9) for each in found]
    return Completeness(steps=steps, median=float(np.median(share_N)), worst_tenth=float(np.percentile(share_N, 90)))

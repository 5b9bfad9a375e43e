"""Batches of like length under a token budget, so that little or nothing is computed for padding."""

import numpy as np


def batches_by_length(length_N: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Indices of each batch; a batch's rows times its longest length stay within the budget.

    Rows of equal length that fill at least a quarter of the budget are batches of their own: without padding, attention
    needs no mask. The others share batches, longest first. A row longer than the budget is a batch of its own.
    """
    order = np.argsort(-length_N, kind="stable")
    _, starts = np.unique(-length_N[order], return_index=True)
    batches: list[np.ndarray] = []
    others: list[np.ndarray] = []
    for same in np.split(order, starts[1:]):
        for batch in _cut(same, length_N, tokens_per_batch):
            enough = 4 * len(batch) * length_N[batch[0]] >= tokens_per_batch
            (batches if enough else others).append(batch)
    return batches + _cut(np.concatenate([*others, order[:0]]), length_N, tokens_per_batch)


def _cut(order: np.ndarray, length_N: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Consecutive batches from indices in falling order of length."""
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(int(length_N[order[start]]), 1))
        batches.append(order[start : start + rows])
        start += rows
    return batches

"""Batches of like length under a token budget, so that little is computed for padding."""

import numpy as np


def batches_by_length(length_N: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Indices of each batch, longest rows first; a batch's rows times its longest length stay within the budget.

    A row longer than the budget is a batch of its own.
    """
    order = np.argsort(-length_N, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(int(length_N[order[start]]), 1))
        batches.append(order[start : start + rows])
        start += rows
    return batches

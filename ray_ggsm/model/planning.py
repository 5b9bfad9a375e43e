"""Batches of like length under a token budget, so that little is computed for padding."""

import numpy as np

START = 256
"""What one more batch is taken to cost beside its tokens, in tokens: so many are padded before rows are split. Less
makes training steps slower, whose micro-batches are small (docs/benchmarks.md)."""


def batches_by_length(length_N: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Indices of each batch, longest rows first; a batch's rows times its longest length stay within the budget.

    Of all ways to cut the rows, in order of length, where the length changes, the one with the fewest tokens, padding
    and `START` of every batch included. A row longer than the budget is a batch of its own.
    """
    if not len(length_N):
        return []
    order = np.argsort(-length_N, kind="stable")
    _, first_U = np.unique(-length_N[order], return_index=True)
    longest_U = np.maximum(length_N[order[first_U]], 1)
    end_U = np.append(first_U, len(order))
    # cost_U[u]: of the rows from first_U[u] on; rows from u to before v share their batches
    cost_U, next_U = np.zeros(len(first_U) + 1), np.zeros(len(first_U), dtype=int)
    for u in range(len(first_U) - 1, -1, -1):
        rows_V = end_U[u + 1 :] - first_U[u]
        fit = max(1, tokens_per_batch // int(longest_U[u]))
        cost_V = rows_V * longest_U[u] + START * -(-rows_V // fit) + cost_U[u + 1 :]
        v = int(np.argmin(cost_V))
        cost_U[u], next_U[u] = cost_V[v], u + 1 + v
    batches, u = [], 0
    while u < len(first_U):
        rows = order[first_U[u] : end_U[next_U[u]]]
        fit = max(1, tokens_per_batch // int(longest_U[u]))
        batches += [rows[n : n + fit] for n in range(0, len(rows), fit)]
        u = int(next_U[u])
    return batches

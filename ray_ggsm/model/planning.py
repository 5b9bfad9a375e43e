"""Plans batches of similar length under a token budget, so that little is computed for padding.

Legend: N rows, U distinct lengths, V lengths from some length on.
"""

import numpy as np

BATCH_COST = 256
"""Fixed cost of one more batch, in tokens: rows share a batch until their padding costs more. Training steps are slower
with a lower cost, because their micro-batches become small (docs/benchmarks.md)."""


def batches_by_kind(kind_N: np.ndarray | None, length_N: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """As `batches_by_length`, for the rows of each kind (int64; None: all are of one kind) by themselves."""
    if kind_N is None:
        return batches_by_length(length_N, tokens_per_batch)
    of_kinds = [np.flatnonzero(kind_N == kind) for kind in np.unique(kind_N)]
    return [rows[index] for rows in of_kinds for index in batches_by_length(length_N[rows], tokens_per_batch)]


def batches_by_length(length_N: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Indices of the rows of each batch, longest rows first.

    The rows of a batch, padded to the longest of them, stay within the budget; a row that is longer than the budget
    gets a batch to itself. Rows are ordered by length and divided where the length changes: of all such divisions, this
    is the cheapest in padded tokens plus `BATCH_COST` per batch.

    Args:
        length_N: int, tokens per row.
        tokens_per_batch: the budget, padded tokens.
    """
    if not len(length_N):
        return []
    order = np.argsort(-length_N, kind="stable")
    _, first_U = np.unique(-length_N[order], return_index=True)
    longest_U = np.maximum(length_N[order[first_U]], 1)
    end_U = np.append(first_U, len(order))
    # cost_U[u] is the cost of the rows from first_U[u] on; rows of lengths u to v - 1 share batches
    cost_U, next_U = np.zeros(len(first_U) + 1), np.zeros(len(first_U), dtype=int)
    for u in range(len(first_U) - 1, -1, -1):
        rows_V = end_U[u + 1 :] - first_U[u]
        fit = max(1, tokens_per_batch // int(longest_U[u]))
        cost_V = rows_V * longest_U[u] + BATCH_COST * -(-rows_V // fit) + cost_U[u + 1 :]
        v = int(np.argmin(cost_V))
        cost_U[u], next_U[u] = cost_V[v], u + 1 + v
    batches, u = [], 0
    while u < len(first_U):
        rows = order[first_U[u] : end_U[next_U[u]]]
        fit = max(1, tokens_per_batch // int(longest_U[u]))
        batches += [rows[n : n + fit] for n in range(0, len(rows), fit)]
        u = int(next_U[u])
    return batches

"""Exact search for several queries in one pass over the files: what an index is measured against.

Legend: Q queries, N rows of a file, U its users, D width.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from ray_ggsm.numerics import unit
from ray_ggsm.tables import scan
from ray_ggsm.tables.nearest import COLUMNS
from ray_ggsm.tables.schema import matrix


def exact_nearest(
    files: Sequence[str], query_QD: np.ndarray, k: int, instruction: str, *, without: Sequence[str]
) -> list[list[str]]:
    """The k users nearest to each query, best first; a user's best row counts, and the earlier id of equal ones.

    `without` names the user of each query, who is left out of its own.
    """
    unit_QD = unit(query_QD)
    best: list[list[tuple[float, str]]] = [[] for _ in without]
    for file in files:
        rows = scan.read_files([file], COLUMNS)
        rows = rows.filter(pc.equal(rows["instruction"], instruction))
        if not len(rows):
            continue
        users = rows["user_id"].combine_chunks().dictionary_encode()
        names, user_N = users.dictionary.to_pylist(), users.indices.to_numpy()
        score_NQ = unit(matrix(rows["embedding"])) @ unit_QD.T
        score_UQ = np.full((len(names), len(unit_QD)), -np.inf)
        np.maximum.at(score_UQ, user_N, score_NQ)
        taken_KQ = np.argsort(-score_UQ, axis=0, kind="stable")[: k + 1]
        for query, name in enumerate(without):
            of_file = [(-score_UQ[user, query], names[user]) for user in taken_KQ[:, query] if names[user] != name]
            best[query] = sorted([*best[query], *of_file])[:k]
    return [[name for _, name in of_query] for of_query in best]

"""The users whose vectors are nearest to a direction, in some files of a table. Loads no torch: many tasks run it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.numerics import unit
from ray_ggsm.tables import scan
from ray_ggsm.tables.schema import matrix

COLUMNS = ["user_id", "as_of", "instruction", "embedding"]
AUDIENCE = pa.schema([("user_id", pa.string()), ("as_of", pa.timestamp("us", "UTC")), ("score", pa.float32())])
"""Columns of the result; `score` is the cosine."""


def best_of_files(files: pa.Table, target_D: np.ndarray, k: int, without: pa.Array, instruction: str) -> pa.Table:
    """The k best users (AUDIENCE) of some data files, best first.

    Args:
        files: a column `file` with locations.
        target_D: the direction, of length 1.
        k: largest number of users.
        without: users who are left out.
        instruction: whose rows count.
    """
    rows = scan.read_files(files["file"].to_pylist(), COLUMNS)
    wanted = pc.and_(
        pc.equal(rows["instruction"], instruction), pc.invert(pc.is_in(rows["user_id"], value_set=without))
    )
    rows = rows.filter(wanted)
    if not len(rows):
        return AUDIENCE.empty_table()
    score_N = unit(matrix(rows["embedding"])) @ target_D
    return best_rows(pa.table([rows["user_id"], rows["as_of"], pa.array(score_N, pa.float32())], schema=AUDIENCE), k)


def best_rows(rows: pa.Table, k: int) -> pa.Table:
    """The k best users of AUDIENCE rows, best first; a user's best row counts."""
    ordered = rows.sort_by([("score", "descending"), ("user_id", "ascending")])
    users = ordered["user_id"].combine_chunks().dictionary_encode()
    _, first = np.unique(users.indices.to_numpy(), return_index=True)
    return ordered.take(pa.array(np.sort(first)[:k]))

"""Rows of the same users in two versions, side by side."""

import pyarrow as pa

from ray_ggsm.tables.schema import KEY


def newest_pairs(old: pa.Table, new: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of users and instructions that both tables have, in one order; the newest of several as_of."""
    old_rows, new_rows = _newest(old), _newest(new)
    shared = sorted(old_rows.keys() & new_rows.keys())
    places = [pa.array([rows[key] for key in shared], pa.int64()) for rows in (old_rows, new_rows)]
    return old.take(places[0]), new.take(places[1])


def _newest(rows: pa.Table) -> dict[tuple[str, str], int]:
    """Position of the newest row of each (user_id, instruction)."""
    order = rows.select(KEY).append_column("row", pa.array(range(rows.num_rows), pa.int64())).sort_by("as_of")
    names = [order[name].to_pylist() for name in ("user_id", "instruction", "row")]
    return {(user, instruction): row for user, instruction, row in zip(*names, strict=True)}

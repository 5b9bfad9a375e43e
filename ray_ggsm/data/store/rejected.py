"""Records that are left out: those beyond the most of a user, of replaced files, and the table of rejected ones."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.data.store.columns import BUCKET, FILE, RECORD, REJECTED, REJECTED_COLUMNS, SEQUENCE, arrow_schema
from ray_ggsm.data.store.manifest import TableState
from ray_ggsm.hashing import bucket_of


def rejected_schema() -> pa.Schema:
    """The columns of the table of rejected records."""
    return arrow_schema({**REJECTED_COLUMNS, SEQUENCE: "BIGINT"})


def newest(rows: pa.Table, name: str, state: TableState, most: int | None) -> tuple[pa.Table, pa.Table, int]:
    """The rows without those beyond the newest `most` of a user, rejected records that tell of them, and their number.

    Rows of a static table have no time; of them, the first ones stay.
    """
    empty = no_rejected()
    if most is None or len(rows) <= most:
        return rows, empty, 0
    counts = pc.value_counts(rows[state.user].combine_chunks())
    heavy = counts.filter(pc.greater(counts.field("counts"), most))
    if not len(heavy):
        return rows, empty, 0
    users, keep_N, letters = rows[state.user].cast(pa.string()), np.ones(len(rows), dtype=bool), []
    for user, count in zip(heavy.field("values").to_pylist(), heavy.field("counts").to_pylist(), strict=True):
        index = np.flatnonzero(pc.equal(users, user).to_numpy())
        if state.time is not None:
            index = index[_newest_first(rows.take(index), state.time)]
        keep_N[index[most:]] = False
        detail = f"{count - most:,} records of this user beyond the newest {most:,} (max_events_per_user)"
        letters.append([name, user, name, "too_many_events", detail])
    columns = [pa.array(values, pa.string()) for values in zip(*letters, strict=True)]
    return rows.filter(pa.array(keep_N)), pa.table(columns, schema=empty.schema), int((~keep_N).sum())


def _newest_first(rows: pa.Table, time: str) -> np.ndarray:
    keys = {"time": rows[time], "file": rows[FILE].cast(pa.string()), "record": rows[RECORD]}
    order: np.ndarray = pc.sort_indices(pa.table(keys), sort_keys=[(key, "descending") for key in keys]).to_numpy()
    return order


def no_rejected() -> pa.Table:
    """Rejected records: none."""
    return arrow_schema(REJECTED_COLUMNS).empty_table()


def rejected_rows(tables: Sequence[pa.Table], sequence: int, buckets: int) -> pa.Table:
    """Rejected records as rows of the store's table, with BUCKET."""
    rows = pa.concat_tables(tables)
    rows = rows.append_column(SEQUENCE, pa.repeat(pa.scalar(sequence, pa.int64()), len(rows)))
    return with_bucket(rows, "user_id", buckets)


def rows_without(rows: pa.Table, table: str, paths: Mapping[str, Sequence[str]]) -> pa.Table:
    """Rows of a table without those of some source files; `paths`: table -> files."""
    if table != REJECTED:
        return rows.filter(pc.invert(pc.is_in(rows[FILE], value_set=pa.array(list(paths[table]), pa.string()))))
    gone = pa.array([False] * len(rows))
    for name, some in paths.items():
        for path in some:
            here = pc.or_(pc.equal(rows["source"], path), pc.starts_with(rows["source"], path + ":"))
            here = pc.or_(here, pc.starts_with(rows["source"], path + ", "))
            gone = pc.or_(gone, pc.and_(pc.equal(rows["table"], name), here))
    return rows.filter(pc.invert(gone))


def with_bucket(rows: pa.Table, user: str, buckets: int) -> pa.Table:
    """Rows with their bucket; records without a user belong to bucket 0."""
    encoded = pc.dictionary_encode(rows[user].combine_chunks())
    bucket_U = pa.array(bucket_of(encoded.dictionary, buckets), pa.int32())
    return rows.append_column(BUCKET, pc.fill_null(bucket_U.take(encoded.indices), 0))

"""Vectors at past moments of a table whose encoder has changed since: each row's own, whichever encoder made it.

Legend: N rows, E encoders.
"""

import datetime as dt

import numpy as np
import pyarrow as pa

from ray_ggsm.tables.labels import Keys
from ray_ggsm.tables.moments import Moment
from ray_ggsm.tables.reader import EmbeddingTable


def join_any_encoder(
    table: EmbeddingTable,
    keys_with_times: Keys,
    *,
    known_at: Moment | None = None,
    instruction: str | None = None,
    max_age: dt.timedelta | None = None,
) -> pa.Table:
    """`EmbeddingTable.join` that lets rows have vectors of different encoders: the column `encoder` says of which.

    Each row gets the newest of the vectors that a join with each encoder gives; of equal moments, that of the newest
    version. It raises like `join`.
    """
    keys = pa.table(keys_with_times)
    recorded = sorted({commit.encoder for commit in table.history() if commit.encoder is not None})
    encoders: list[str | None] = [*recorded] or [None]
    parts = [
        table.join(keys, known_at=known_at, instruction=instruction, encoder=encoder, max_age=max_age)
        for encoder in encoders
    ]
    time_EN = np.stack([part["as_of"].cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy() for part in parts])
    version_EN = np.stack([part["version"].fill_null(-1).to_numpy() for part in parts])
    newest_N = np.where(time_EN == time_EN.max(axis=0), version_EN, -2).argmax(axis=0)
    return pa.concat_tables(parts).take(pa.array(newest_N * len(keys) + np.arange(len(keys)))).replace_schema_metadata()

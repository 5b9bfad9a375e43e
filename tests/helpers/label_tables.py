"""Made-up label tables and vector tables."""

from datetime import UTC, datetime

import pyarrow as pa

DAY = datetime(2017, 8, 29, tzinfo=UTC)
AS_OF = pa.timestamp("us", tz="UTC")


def label_table(users, as_ofs=None, **columns):
    columns = columns or {"buys": [True, False] * (len(users) // 2) + [True] * (len(users) % 2)}
    keys = {"user_id": pa.array(users, pa.string()), "as_of": pa.array(as_ofs or [DAY] * len(users), AS_OF)}
    return pa.table(keys | {name: pa.array(values, pa.bool_()) for name, values in columns.items()})


def vector_table(users, vectors, as_ofs=None, kind=None):
    kind = kind or pa.list_(pa.float32(), len(vectors[0]))
    return pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "as_of": pa.array(as_ofs or [DAY] * len(users), AS_OF),
            "embedding": pa.array(vectors, kind),
        }
    )

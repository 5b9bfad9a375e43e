"""Made-up user rows."""

import datetime as dt

import numpy as np
import pyarrow as pa

EVENTS = pa.list_(pa.struct([("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32())]))
FUTURE = pa.list_(
    pa.struct(
        [
            ("modality", pa.string()),
            ("time", pa.timestamp("us", "UTC")),
            ("text", pa.string()),
            ("amount", pa.float32()),
        ]
    )
)
AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def user_rows(users: int = 13, seed: int = 0, most: int = 11) -> pa.Table:
    """Made-up rows with modalities `bill` and `app`, seven features, and a future."""
    rng = np.random.default_rng(seed)

    def events(n: int, sign: int) -> list[dict]:
        days = np.sort(rng.uniform(0.01, 80, n))[::-1] * sign
        return [
            {"time": AS_OF - dt.timedelta(days=float(d)), "text": f"item {rng.integers(17)}", "amount": amount}
            for d, amount in zip(days if sign > 0 else days[::-1], rng.choice([1.5, 7.0, None], n), strict=True)
        ]

    def future(n: int) -> list[dict]:
        return [{"modality": "bill" if rng.random() < 0.7 else "app", **event} for event in events(n, -1)]

    return pa.table(
        {
            "user_id": pa.array([f"u{seed}-{i}" for i in range(users)]),
            "as_of": pa.array([AS_OF] * users, pa.timestamp("us", "UTC")),
            "bill": pa.array([events(int(rng.integers(1, most)), 1) for _ in range(users)], EVENTS),
            "app": pa.array([events(int(rng.integers(0, most)), 1) for _ in range(users)], EVENTS),
            "tabular": pa.array(rng.normal(size=(users, 7)).astype(np.float32).tolist(), pa.list_(pa.float32())),
            "future": pa.array([future(int(rng.integers(0, most))) for _ in range(users)], FUTURE),
        }
    )

"""Which users a monitor follows does not depend on shards, nor on which days count in the end."""

import datetime as dt
from functools import reduce

import numpy as np
import pyarrow as pa

from ray_ggsm.data.followed import Followed
from ray_ggsm.hashing import bucket_of, hash64

DAYS = [dt.datetime(2024, 3, 1, tzinfo=dt.UTC) + dt.timedelta(days=7 * n) for n in range(4)]


def label_rows(users: int) -> pa.Table:
    """Users with rows at some of the days; few have one at the first."""
    rng = np.random.default_rng(5)
    here = [
        (f"u{u}", day) for u in range(users) for n, day in enumerate(DAYS) if rng.random() < (0.1, 0.3, 0.5, 0.6)[n]
    ]
    user_id, as_of = zip(*here, strict=True)
    return pa.table(
        {"user_id": user_id, "as_of": pa.array(as_of, pa.timestamp("us", "UTC")), "buys": [True] * len(here)}
    )


def test_the_followed_are_those_with_the_smallest_hashes_whatever_the_last_day() -> None:
    labels, most = label_rows(700), 30
    all_rows = labels.to_pylist()
    for shards in (1, 7):
        shard_N = bucket_of(labels["user_id"], shards)
        parts = [Followed.of(labels.filter(pa.array(shard_N == k)), most) for k in range(shards)]
        found = reduce(lambda a, b: a.merged(b, most), parts)
        rows = found.labels.to_pylist()
        assert len({row["user_id"] for row in rows}) < 4 * most
        for last in DAYS:
            known = {row["user_id"] for row in all_rows if row["as_of"] <= last}
            expected = sorted(known, key=lambda user: int(hash64([user])[0]))[:most]
            mine = {row["user_id"] for row in rows if row["as_of"] <= last}
            assert sorted(mine, key=lambda user: int(hash64([user])[0]))[:most] == expected
            of_these = [row for row in rows if row["user_id"] in expected]
            assert sorted(map(str, of_these)) == sorted(map(str, (r for r in all_rows if r["user_id"] in expected)))
            assert sum(n for day, n in found.users.items() if day <= last) == len(known)
        assert found.rows == {day: sum(row["as_of"] == day for row in all_rows) for day in DAYS}


def test_where_users_are_few_all_are_followed() -> None:
    labels = label_rows(40)
    found = Followed.of(labels.slice(0, 30), 100).merged(Followed.of(labels.slice(30, 0), 100), 100)
    assert found.labels.equals(labels.slice(0, 30))

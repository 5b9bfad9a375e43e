"""The labels of some users, always the same ones: those with the smallest hashes among all who have labels.

Which days count is only known at the end, and users may have labels from a later day on. So a shard keeps the users of
whom it cannot be ruled out that they are among the followed, whatever the last day is, and so does a merge of shards.
"""

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.data.aggregates import Fitted
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import TableRows
from ray_ggsm.data.prepare import labels_at
from ray_ggsm.data.sources.source import Source
from ray_ggsm.hashing import hash64

_MOMENT = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Followed:
    """The label rows of users who may be followed, and how many rows and users there are beside."""

    labels: pa.Table
    """user_id, as_of and a nullable boolean per label."""
    rows: Mapping[dt.datetime, int]
    """Moment -> label rows of all users."""
    users: Mapping[dt.datetime, int]
    """Moment -> users whose first label row is of it."""

    @classmethod
    def of(cls, labels: pa.Table, most: int) -> "Followed":
        """Those of all label rows of some users; `most` is the largest number of users who are followed in the end."""
        rows, first = _counts(labels["as_of"].cast(_MOMENT)), _first_moments(labels)
        return cls(_smallest(labels, first, most), rows, _counts(first["as_of"]))

    def merged(self, other: "Followed", most: int) -> "Followed":
        """Both together; no user is in both."""
        labels = pa.concat_tables([self.labels, other.labels])
        rows, users = (Counter(a) + Counter(b) for a, b in ((self.rows, other.rows), (self.users, other.users)))
        return Followed(_smallest(labels, _first_moments(labels), most), rows, users)


def followed_at(
    config: DataConfig,
    fitted: Fitted,
    shard: int,
    shards: int,
    most: int,
    *,
    threads: int | None = None,
    source: Source | None = None,
) -> tuple[Followed, dict[str, TableRows], dt.date | None]:
    """As `labels_at`, with the labels of users who may be among the `most` who are followed."""
    labels, counts, newest = labels_at(config, fitted, shard, shards, threads=threads, source=source)
    return Followed.of(labels, most), counts, newest


def _counts(moments: pa.ChunkedArray) -> Counter[dt.datetime]:
    return Counter({each["values"]: each["counts"] for each in pc.value_counts(moments).to_pylist()})


def _first_moments(labels: pa.Table) -> pa.Table:
    """`user_id`, and the first moment as `as_of`."""
    found = labels.select(["user_id", "as_of"]).group_by("user_id", use_threads=False).aggregate([("as_of", "min")])
    return pa.table({"user_id": found["user_id"], "as_of": found["as_of_min"].cast(_MOMENT)})


def _smallest(labels: pa.Table, first: pa.Table, most: int) -> pa.Table:
    """The rows of users who, when their first label row comes, are among the `most` users with the smallest hashes."""
    if len(first) <= most:
        return labels
    hash_U, first_U = hash64(first["user_id"]), first["as_of"].cast(pa.int64()).to_numpy()
    kept_U = np.zeros(len(first), dtype=bool)
    for moment in np.unique(first_U):
        hash_N = hash_U[first_U <= moment]
        largest = np.partition(hash_N, most - 1)[most - 1] if len(hash_N) > most else hash_N.max()
        kept_U |= (first_U == moment) & (hash_U <= largest)
    users = first["user_id"].filter(pa.array(kept_U)).combine_chunks()
    return labels.filter(pc.is_in(labels["user_id"], value_set=users))

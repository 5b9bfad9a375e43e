"""Embedding tables in emulators of other object stores than S3."""

import pyarrow as pa
import pytest

from ray_ggsm import storage
from ray_ggsm.delta import storage_options
from ray_ggsm.tables import open_table
from ray_ggsm.tables.maintenance import forget, rollback, vacuum
from ray_ggsm.tables.publish import LostRace
from ray_ggsm.tables.tagging import tag
from tests.helpers.tables import AS_OF, put, rows

KEY = b"k" * 32


def test_the_life_of_a_table(bucket):
    location = f"{bucket}/users"
    put(location, rows(40), "r0")
    put(location, rows(50, seed=1, run="r1"), "r1")
    table = open_table(location)
    assert table.verify(deep=True) == []
    assert (len(table.read()), len(table.read(version=0))) == (50, 40)
    assert table.read(user_ids=["u7"])["events"].to_pylist() == [7]
    joined = table.join(pa.table({"user_id": ["u3", "u45", "nobody"], "time": [AS_OF] * 3}))
    assert joined["version"].to_pylist() == [1, 1, None]
    tag(location, "first", 0)
    assert forget(location, ["u3"], KEY).tags == ("first",)
    rollback(location, 0, key=KEY)
    assert len(open_table(location).read()) == 39
    gone = vacuum(location, 0, dry_run=True)
    assert gone
    assert vacuum(location, 0, dry_run=False) == gone
    table = open_table(location)
    assert table.verify(deep=True) == []
    assert [len(table.read(version=version)) for version in ("first", None)] == [39, 39]
    assert not [path for path in gone if storage.exists(f"{location}/{path}")]


def test_of_two_publishers_one_wins(bucket):
    location = f"{bucket}/users"
    put(location, rows(10), "r0")
    put(location, rows(11), "r1", expected_version=0)
    with pytest.raises(LostRace):
        put(location, rows(12), "r2", expected_version=0)
    assert len(open_table(location).read()) == 11


def test_commits_are_put_if_absent(bucket, monkeypatch):
    """Another publisher commits after this one has looked, just before it commits: only the log can tell."""
    from ray_ggsm.tables import publish

    location, commit, others = f"{bucket}/users", publish._commit, iter([True])
    put(location, rows(10), "r0")

    def late(*arguments):
        if next(others, False):
            put(location, rows(11), "r1")
        commit(*arguments)

    monkeypatch.setattr(publish, "_commit", late)
    with pytest.raises(LostRace):
        put(location, rows(12), "r2")
    assert len(open_table(location).read()) == 11


def test_polars_reads(bucket):
    polars = pytest.importorskip("polars")
    put(f"{bucket}/users", rows(20), "r0")
    assert polars.read_delta(f"{bucket}/users", storage_options=storage_options(bucket)).height == 20

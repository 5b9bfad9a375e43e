"""Which vectors of which users are compared, on tables whose content is known."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.tables.compare import SideConfig, UserCounts, opened, shared
from tests.helpers.tables import AS_OF, put, rows

LATER = AS_OF + dt.timedelta(days=30)


def at(table: pa.Table, moment: dt.datetime) -> pa.Table:
    as_of = pa.array([moment] * len(table), pa.timestamp("us", "UTC"))
    return table.set_column(1, table.schema.field("as_of"), as_of)


@pytest.fixture
def table(tmp_path) -> str:
    """Version 0: u0..u29 early. Version 1: u10..u49 early and late, and two instructions."""
    location = str(tmp_path / "users")
    put(location, rows(30, instruction="default"), "r0")
    names = [f"u{i}" for i in range(10, 50)]
    late = at(rows(names, seed=2, instruction="default"), LATER)
    parts = [rows(names, seed=1, instruction="default"), late, rows(names[:3], seed=3, instruction="spend")]
    put(location, pa.concat_tables(parts), "r1")
    return location


def test_users_of_both_sides_and_the_same_sample_every_time(table: str) -> None:
    old, new = opened("old", SideConfig(table=table, version=0)), opened("new", SideConfig(table=table))
    found = shared(old, new, 1000)
    assert found.counts == UserCounts(old_only=10, new_only=20, both=20, compared=20)
    assert sorted(found.users.to_pylist()) == sorted(f"u{i}" for i in range(10, 30))
    few = shared(new, old, 7)
    assert few.users.to_pylist() == found.users.to_pylist()[:7]
    assert few.counts == UserCounts(old_only=20, new_only=10, both=20, compared=7)


def test_other_numbers_of_buckets(tmp_path) -> None:
    sides = []
    for name, names, buckets in (("old", range(40), 6), ("new", range(25, 70), 4)):
        location = str(tmp_path / name)
        put(location, rows([f"u{i}" for i in names], instruction="default"), "r0", buckets=buckets)
        sides.append(opened(name, SideConfig(table=location)))
    found = shared(*sides, 1000)
    assert found.counts == UserCounts(old_only=25, new_only=30, both=15, compared=15)
    assert sorted(found.users.to_pylist()) == [f"u{i}" for i in range(25, 40)]


def test_the_newest_row_of_each_user_or_that_of_a_moment(table: str) -> None:
    users = pa.array(["u31", "u12", "u40"])
    places = [int(user[1:]) - 10 for user in users.to_pylist()]
    names = [f"u{i}" for i in range(10, 50)]
    for as_of, seed in ((None, 2), (str(LATER), 2), ("2024-03-01", 1)):
        side = opened("new", SideConfig(table=table, as_of=as_of))
        vector_ND, encoders = side.vectors(users)
        expected = np.stack(rows(names, seed=seed)["embedding"].to_numpy())[places]
        np.testing.assert_array_equal(vector_ND, expected)
        assert encoders == ["enc1"]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"instruction": "churn"}, r"new\.instruction: .*version 1 has no row of 'churn'; there is 'default', 'spend'"),
        ({"as_of": "2023-01-01"}, r"new\.as_of: .*no row of 2023-01-01; there are rows of 2024-03-31.*, 2024-03-01"),
        ({"as_of": "tomorrow"}, r"as_of: expected an ISO date"),
        ({"version": 7}, r"no version 7; there are versions 0 to 1"),
        ({"table": "nothing/here"}, r"no embedding table here"),
    ],
)
def test_what_is_not_there(table: str, config: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        shared(opened("old", SideConfig(table=table)), opened("new", SideConfig(**{"table": table, **config})), 10)


def test_nobody_in_common(table: str, tmp_path) -> None:
    other = str(tmp_path / "strangers")
    put(other, rows(["x1", "x2"], instruction="default"), "r0")
    with pytest.raises(InputError, match=r"no user in common \(40 in .*users version 1, 2 in .*strangers version 0\)"):
        shared(opened("old", SideConfig(table=table)), opened("new", SideConfig(table=other)), 10)


def test_vectors_that_cannot_be_compared(tmp_path) -> None:
    odd = str(tmp_path / "odd")
    mixed = pa.concat_tables([rows(["a"], instruction="default"), rows(["b"], width=3, instruction="default")])
    put(odd, mixed, "r0")
    with pytest.raises(InputError, match=r"old: .*odd version 0 holds vectors of width \[7, 3\]"):
        opened("old", SideConfig(table=odd)).vectors(pa.array(["a", "b"]))
    broken = rows(["a", "b"], instruction="default")
    values = broken["embedding"].to_pylist()
    values[1][2] = float("nan")
    broken = broken.set_column(3, broken.schema.field("embedding"), pa.array(values, pa.list_(pa.float32())))
    put(str(tmp_path / "nan"), broken, "r0")
    with pytest.raises(InputError, match=r"1 vectors of .* hold NaN"):
        opened("old", SideConfig(table=str(tmp_path / "nan"))).vectors(pa.array(["a", "b"]))

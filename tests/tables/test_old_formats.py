"""Tables that older commits wrote are read, checked and carried on by this one.

Each directory below `data` has the name of the commit that wrote it: `4cc2f08` is of 2026-11-22, `0a41a9a` of the day
when tags and the list of the forgotten came. Two versions of 8 and 9 users; since `0a41a9a` with the tag `spring` of
version 0, and u3 forgotten. A change that this test refuses breaks the tables that users have.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.tables import open_table
from ray_ggsm.tables.maintenance import forget, rollback, vacuum
from tests.helpers.tables import put, rows

DATA = Path(__file__).parent / "data"
COMMITS = sorted(place.name for place in DATA.iterdir())
WITH_LISTS = [name for name in COMMITS if (DATA / name / "table" / "_suppressed").exists()]
KEY = b"k" * 32


@pytest.fixture
def old(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A copy of the table that a commit wrote."""
    return str(shutil.copytree(DATA / request.param / "table", tmp_path / "table"))


def users(location: str, **version: int | str) -> set[str]:
    return set(open_table(location).read(columns=["user_id"], **version)["user_id"].to_pylist())


@pytest.mark.parametrize("name", COMMITS)
def test_rows_are_the_same(name: str) -> None:
    expected = json.loads((DATA / name / "expected.json").read_text())
    table = open_table(str(DATA / name / "table"))
    assert table.version == expected["version"]
    assert table.verify(deep=True) == []
    for version, vectors in expected["rows"].items():
        names, vector_ND = table.matrix(version=int(version))
        assert dict.fromkeys(names.tolist()) == dict.fromkeys(vectors)
        np.testing.assert_allclose(vector_ND, [vectors[user] for user in names.tolist()], atol=1e-6)
    assert [commit.operation for commit in table.history()][-2:] == ["publish", "publish"]
    assert (table.metadata(1).run, table.metadata(1).encoder, table.metadata(1).rows) == ("r1", "enc1", 9)


@pytest.mark.parametrize("old", COMMITS, indirect=True)
def test_life_goes_on(old: str) -> None:
    version = open_table(old).version
    assert put(old, rows(12, run="r9"), "r9", buckets=1) == version + 1
    assert forget(old, ["u7"], KEY).version == version + 2
    assert len(users(old)) == 11
    with pytest.raises(InputError, match="found no key"):
        rollback(old, 0)
    rollback(old, 0, key=KEY)
    assert "u7" not in users(old)
    vacuum(old, 0, dry_run=False)
    assert open_table(old).verify(deep=True) == []


@pytest.mark.parametrize("old", WITH_LISTS, indirect=True)
def test_who_was_forgotten_stays_so(old: str) -> None:
    assert "u3" not in users(old, version="spring")
    assert "u3" not in set(open_table(old, key=KEY).read(version=0)["user_id"].to_pylist())
    rollback(old, 0, key=KEY)
    assert users(old) == {f"u{k}" for k in range(8) if k != 3}
    with pytest.raises(InputError, match="another key"):
        forget(old, ["u1"], b"o" * 32)


def test_there_are_old_ones() -> None:
    assert {"4cc2f08", "0a41a9a"} <= set(COMMITS)
    assert len(WITH_LISTS) == len(COMMITS) - 1

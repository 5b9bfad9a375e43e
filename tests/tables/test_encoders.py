"""Joins of a table whose encoder has changed: each row's newest vector, whichever encoder made it."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.tables import open_table
from ray_ggsm.tables.encoders import join_any_encoder
from ray_ggsm.tables.metadata import VersionMetadata
from ray_ggsm.tables.schema import rows_to_table
from tests.helpers.tables import put


def day(number: int) -> dt.datetime:
    return dt.datetime(2024, 3, number, tzinfo=dt.UTC)


def publish(location: Path, users: list[str], as_of: int, encoder: str, value: float, width: int) -> None:
    count_N = np.arange(len(users))
    rows = rows_to_table(pa.array(users), pa.array([day(as_of)] * len(users), pa.timestamp("us", "UTC")), "default",
                         count_N, count_N, np.full((len(users), width), value, np.float32), encoder, "r")  # fmt: skip
    put(str(location), rows, f"r{as_of}-{encoder}", metadata=VersionMetadata(encoder=encoder))


def test_each_row_gets_the_vector_that_its_user_had(tmp_path: Path) -> None:
    publish(tmp_path, ["ann", "bob"], 1, "old", 1.0, 2)
    publish(tmp_path, ["ann"], 3, "new", 2.0, 3)  # bob has left
    publish(tmp_path, ["ann"], 5, "new", 3.0, 3)
    publish(tmp_path, ["ann"], 5, "old", 4.0, 2)  # the same night again, with the encoder of before
    users = ["ann", "bob", "ann", "ann", "bob", "ann", "cid"]
    times = [day(n) for n in (1, 4, 2, 4, 5, 5, 5)]
    keys = pa.table({"user_id": users, "time": pa.array(times, pa.timestamp("us", "UTC"))})
    table = open_table(str(tmp_path))
    with pytest.raises(InputError, match="several encoders"):
        table.join(keys)
    found = join_any_encoder(table, keys)
    assert found["user_id"].to_pylist() == users
    assert found["encoder"].to_pylist() == ["old", "old", "old", "new", "old", "old", None]
    assert found["embedding"].to_pylist() == [[1, 1], [1, 1], [1, 1], [2, 2, 2], [1, 1], [4, 4], None]
    assert found["as_of"].to_pylist() == [day(n) for n in (1, 1, 1, 3, 1, 5)] + [None]
    aged = join_any_encoder(table, keys, max_age=dt.timedelta(days=1))
    assert aged["encoder"].to_pylist() == ["old", None, "old", "new", None, "old", None]

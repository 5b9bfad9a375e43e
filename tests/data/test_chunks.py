"""Chunks cover every row of the input exactly once, whatever its row groups."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ray_ggsm.config import InputError
from ray_ggsm.data.chunks import plan_chunks
from tests.helpers.rows import user_rows


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 23), max_size=3), group=st.integers(1, 9), limit=st.integers(1, 12))
def test_every_row_once(tmp_path: Path, sizes: list[int], group: int, limit: int) -> None:
    files, rows = [], user_rows(23)
    for i, size in enumerate(sizes):
        files.append(str(tmp_path / f"{i}.parquet"))
        pq.write_table(rows.slice(0, size), files[-1], row_group_size=group)
    chunks = plan_chunks(files, limit, ["bill", "app"], 7)
    assert [b.number for b in chunks] == list(range(len(chunks)))
    assert all(0 < b.rows <= limit for b in chunks)
    for file, size in zip(files, sizes, strict=True):
        found = []
        for b in (b for b in chunks if b.file == file):
            part = pq.ParquetFile(file).read_row_groups(list(range(b.first, b.first + b.groups)))
            found += part.slice(b.start, b.rows)["user_id"].to_pylist()
        assert found == rows["user_id"].to_pylist()[:size]


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"rows\.parquet: column 'as_of' .* is missing; the columns are: user_id"):
        plan_chunks([str(tmp_path / "rows.parquet")], 10, ["bill"], 7)

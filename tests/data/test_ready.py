"""A producer's marker: every file that it lists, in any spelling, must be there with as many records."""

import json
from pathlib import Path

import pytest

from ray_ggsm.config import NotNow
from ray_ggsm.data.store.manifest import FileEntry, file_key
from ray_ggsm.data.store.ready import Promised, check_ready

PATTERNS = {"clicks": "s3://bucket/in/clicks/day=2025-03-01/*.parquet", "buys": "/data/buys/**/2025-03-01*.csv"}
PATHS = {
    "clicks": ["s3://bucket/in/clicks/day=2025-03-01/a.parquet"],
    "buys": ["/data/buys/2025-03-01.csv", "/data/buys/shop/1/2025-03-01-a.csv"],
}


def marker(place: Path, *files: str) -> str:
    file = place / "ready.json"
    file.write_text(json.dumps({"rows": dict.fromkeys(files, 5)}))
    return str(file)


@pytest.mark.parametrize(
    "file",
    [
        "s3://bucket/in/clicks/day=2025-03-01/b.parquet",
        "clicks/day=2025-03-01/b.parquet",
        "day=2025-03-01/b.parquet",
        "b.parquet",
        "clicks/elsewhere/b.csv",
        "buys/2025-03-01-b.csv",
        "/data/buys/shop/2/3/2025-03-01.csv",
        "shop/2/2025-03-01.csv",
        "2025-03-01-c.csv",
    ],
)
def test_a_file_of_our_tables_that_is_not_there(tmp_path: Path, file: str) -> None:
    with pytest.raises(NotNow, match=f"it lists {file}, which is not there yet"):
        check_ready(marker(tmp_path, file), PATTERNS, PATHS)


@pytest.mark.parametrize(
    "file",
    [
        "s3://bucket/in/clicks/day=2025-03-01/a.parquet",
        "clicks/day=2025-03-01/a.parquet",
        "a.parquet",
        "shop/1/2025-03-01-a.csv",
        "/data/buys/2025-03-01.csv",
        "s3://bucket/in/orders/day=2025-03-01/b.parquet",
        "orders/day=2025-03-01/b.parquet",
        "s3://bucket/in/clicks/day=2025-03-02/b.parquet",
        "s3://bucket/in/clicks/day=2025-03-01/more/b.parquet",
    ],
)
def test_files_that_are_there_and_those_of_others(tmp_path: Path, file: str) -> None:
    assert check_ready(marker(tmp_path, file), PATTERNS, PATHS).rows == {file: 5}


def test_a_relative_pattern_and_a_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    patterns, paths = {"clicks": "in/*.csv"}, {"clicks": ["in/a.csv"]}
    check_ready(marker(tmp_path, f"{tmp_path}/in/a.csv"), patterns, paths)
    with pytest.raises(NotNow, match=r"b\.csv, which is not there yet"):
        check_ready(marker(tmp_path, f"{tmp_path}/in/b.csv"), patterns, paths)


def test_numbers_are_of_records() -> None:
    """A record may hold several events; those that were rejected count."""
    entry = FileEntry(table="t", path="in/a.parquet", digest="", stamp="", day=None, rows=7, rejected={"bad_line": 1})
    promised = Promised("m", {"in/a.parquet": 8})
    promised.check([entry], {})
    with pytest.raises(NotNow, match=r"in/a\.parquet should have 8 rows, and has 3 so far"):
        promised.check([entry], {file_key("t", "in/a.parquet"): 3})

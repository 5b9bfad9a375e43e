"""JSON lines: every key of every object is read, and a line that is no text costs its record alone."""

import json
from pathlib import Path

import duckdb
import pytest

from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.formats import part
from ray_ggsm.data.sources.json_part import JsonLines
from ray_ggsm.data.sources.part import BadLine
from ray_ggsm.data.store import arrivals
from ray_ggsm.data.store.arrivals import Arrived, Batch, look
from ray_ggsm.data.store.manifest import TableState
from ray_ggsm.data.store.names import Names

CONFIG = TableConfig(files="*", user="uid", time="ts")
COLUMNS = {"uid": "VARCHAR", "ts": "TIMESTAMP WITH TIME ZONE", "late": "VARCHAR", "tags": "VARCHAR"}
STATE = TableState(version=0, user="uid", time="ts", columns=COLUMNS, texts=("late", "tags"), rows=0)


def line(k: int, **values: object) -> str:
    return json.dumps({"uid": f"u{k}", "ts": "2025-03-01T10:00:00", **values}) + "\n"


def arrived(*files: Path) -> Arrived:
    """The rows of files that one task takes."""
    looks = look("t", CONFIG, [str(file) for file in files])
    return arrivals.read(Batch("t", CONFIG, STATE, tuple(looks), None, 1, 4, None, Names()))


def read(file: Path) -> tuple[dict[str, list], list[BadLine]]:
    """Column -> values, and lines that are no records."""
    found, bad = part(str(file), CONFIG), []
    assert isinstance(found, JsonLines)
    with duckdb.connect() as connection, found.rows(connection, list(found.columns(connection)), bad) as rows:
        return connection.sql(f"FROM {rows}").to_arrow_table().to_pydict(), bad


def test_a_key_that_first_appears_in_the_last_object_is_a_column(tmp_path: Path) -> None:
    file, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    file.write_text("".join(line(k) for k in range(12_000)) + line(12_000, late="here"))
    other.write_text(line(12_001, late="there"))
    [seen] = look("t", CONFIG, [str(file)])
    assert list(seen.columns or ()) == ["uid", "ts", "late"]
    alone, together = arrived(file), arrived(file, other)
    assert [x for x in alone.rows["late"].to_pylist() if x] == ["here"]
    assert [x for x in together.rows["late"].to_pylist() if x] == ["here", "there"]
    assert alone.entries[0] == together.entries[0], "nothing depends on which files a task takes"


@pytest.mark.parametrize(
    "bad",
    [
        {"tags": ["fine", "half \ud83d"]},
        {"tags": {"half \ud83d": 1}},
        {"tags": {"deep": [{"x": "\udc00"}]}},
        {"half \ud83d": "x"},
        {"item": "half \ud83d"},
    ],
)
def test_half_a_surrogate_pair_costs_its_record_alone(tmp_path: Path, bad: dict) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(line(1, tags=["whole \U0001f600"]) + line(2, **bad) + line(3))
    found, rejected = read(file)
    assert found["uid"] == ["u1", "u3"]
    assert found["tags"] == ['["whole \U0001f600"]', None]
    [(number, why)] = rejected
    assert number == 2
    assert "surrogates not allowed" in why
    found = arrived(file)
    assert found.rows["uid"].to_pylist() == ["u1", "u3"]
    assert [(row["source"], row["reason"]) for row in found.rejected.to_pylist()] == [(f"{file}:2", "bad_line")]
    assert (found.entries[0].rows, found.entries[0].rejected) == (2, {"bad_line": 1})


def test_values_stay_as_they_are_written(tmp_path: Path) -> None:
    """Numbers of any length and form, in objects and lists, too."""
    file, digits = tmp_path / "a.jsonl", "9" * 5000
    file.write_text(
        f'\ufeff{{"uid": 1.50, "ts": {digits}, "tags": [1.50, true, null, "é"]}}\n\n'
        '{"uid": NaN, "ts": -Infinity}\nno json\n7\n'
    )
    found, bad = read(file)
    assert (found["uid"], found["ts"]) == (["1.50", None], [digits, "-Infinity"])
    assert found["tags"] == ['[1.5,true,null,"é"]', None]
    assert [number for number, _ in bad] == [4, 5]

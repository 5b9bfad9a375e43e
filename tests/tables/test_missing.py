"""Users of the input without a vector, out of the dead letters of the run that made the newest version."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.data.schema import DEAD_LETTER
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.maintenance import forget, rollback
from ray_ggsm.tables.missing import missing
from tests.helpers.tables import job, put, rows

LETTERS = [("nobody", "non_finite_number"), ("u3", "duplicate_key"), ("few", "too_few_events"), (None, "forgotten")]
"""u3 has a vector all the same."""
WITHOUT = [("few", "too_few_events"), (None, "forgotten"), ("nobody", "non_finite_number")]


def leave(location: str, run: str, letters: list[tuple[str | None, str]]) -> None:
    values = [{"user_id": user, "reason": reason} for user, reason in letters]
    file = storage.join(location, "staging", run, "dead_letters", "part-0.parquet")
    storage.write_parquet(file, pa.Table.from_pylist(values, DEAD_LETTER))


def named(table: pa.Table) -> list[tuple[str | None, str]]:
    return sorted(zip(table["user_id"].to_pylist(), table["reason"].to_pylist(), strict=True), key=str)


@pytest.fixture
def location(tmp_path: Path) -> str:
    place = str(tmp_path / "users")
    put(place, rows(20), "refresh-0", metadata={"without_vector": {"too_few_events": 1}})
    leave(place, "refresh-0", LETTERS)
    leave(place, "refresh-9", [("of another run", "missing_key")])
    return place


def test_those_who_have_a_vector_all_the_same_are_not_missing(location: str) -> None:
    assert named(missing(open_table(location))) == sorted(WITHOUT, key=str)


def test_the_run_is_the_one_that_made_the_rows(location: str) -> None:
    forget(location, ["u4"], b"0123456789abcdef")
    assert named(missing(open_table(location))) == sorted(WITHOUT, key=str)
    put(location, rows(5), "refresh-1")
    assert named(missing(open_table(location))) == []
    rollback(location, 1, key=b"0123456789abcdef")
    assert named(missing(open_table(location))) == sorted(WITHOUT, key=str)
    put(location, rows(2), "refresh-0-3")  # started again after the rollback, in the directory that it had
    assert named(missing(open_table(location))) == sorted([*WITHOUT, ("u3", "duplicate_key")], key=str)


def test_the_command_names_users_in_its_file_only(location: str, tmp_path: Path, capsys) -> None:
    file = tmp_path / "missing.parquet"
    assert job("missing", location, "--output", file) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "version 0: 2 users of its input without a vector, 1 rows without a user_id",
        "  forgotten                             1",
        "  non_finite_number                     1",
        "  too_few_events                        1",
        f"{file}: 3 rows",
    ]
    assert named(pq.read_table(file)) == sorted(WITHOUT, key=str)


def test_files_that_vacuum_has_removed(location: str, capsys) -> None:
    storage.remove(storage.join(location, "staging"))
    assert job("missing", location) == 2
    assert "no dead letters of version 0 are below the table: vacuum has removed them" in capsys.readouterr().err


def test_a_log_that_no_longer_reaches_back_to_the_run(location: str) -> None:
    """A log is cleaned up by its readers' tools; that a run is not known any more must not stop the next one."""
    forget(location, ["u5"], b"k" * 32)
    assert (made := delta.origin(location, 1))
    assert made.run == "refresh-0"
    Path(location, "_delta_log", f"{0:020}.json").unlink()
    assert delta.origin(location, 1) is None

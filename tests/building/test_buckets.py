"""A version out of staged files and the version before: what is carried, what is kept, what departs."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.building.rows import OUT_OF_MEMORY, read_rows, write_staged
from ray_ggsm.config import InputError
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import open_table
from ray_ggsm.tables.gates import GateError, GatesConfig
from ray_ggsm.tables.metadata import VersionCounts, VersionMetadata
from ray_ggsm.tables.reader import EmbeddingTable
from tests.helpers.building import BUCKETS, World, encode


def vectors(table: EmbeddingTable, version: int | None = None) -> dict[str, list[float]]:
    rows = table.read(version=version, columns=["user_id", "embedding"])
    return dict(zip(rows["user_id"].to_pylist(), rows["embedding"].to_pylist(), strict=True))


def with_values(rows: pa.Table, name: str, values: Sequence) -> pa.Table:
    at = rows.column_names.index(name)
    return rows.set_column(at, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))


def with_another_row(rows: pa.Table, at: int) -> pa.Table:
    """The rows, of which one has other numbers."""
    numbers = rows["tabular"].to_pylist()
    numbers[at] = [value + 1 for value in numbers[at]]
    return with_values(rows, "tabular", numbers)


def test_a_first_version(world: World, users: pa.Table) -> None:
    world.give(users)
    table = world.refresh("r0")
    assert sorted(table.read()["user_id"].to_pylist()) == sorted(users["user_id"].to_pylist())
    assert {file.bucket for file in table.data_files()} == set(bucket_of(users["user_id"], BUCKETS).tolist())
    assert table.metadata().counts == VersionCounts(expected=11, written=11, encoded=11)
    assert (table.metadata().encoder, table.metadata().width, table.metadata().normalised) == ("enc1", 5, True)
    assert table.verify(deep=True) == []


def test_one_changed_one_new_one_departed(world: World, users: pa.Table) -> None:
    world.give(users.slice(0, 10))
    first = world.refresh("r0")
    world.give(with_another_row(users.slice(1), 2))  # u0-3
    world.encoded = 0
    second = world.refresh("r1")
    assert world.encoded == 2
    counts = second.metadata().counts
    assert counts == VersionCounts(expected=10, written=10, encoded=2, departed=1)
    before, after = vectors(first), vectors(second)
    assert after.keys() == {f"u0-{i}" for i in range(1, 11)}
    assert {user for user in after if before.get(user) != after[user]} == {"u0-3", "u0-10"}
    changed = set(bucket_of(pa.array(["u0-0", "u0-3", "u0-10"]), BUCKETS).tolist())
    kept = {file.bucket for file in second.data_files()} - changed
    assert {f for f in second.files() if "/r0/" in f} == {f for f in first.files() if int(f.split("=")[1][0]) in kept}
    runs = dict(zip(*(second.read()[name].to_pylist() for name in ("user_id", "run")), strict=True))
    assert {user for user, run in runs.items() if run == "r1"} == {"u0-3", "u0-10"}, "carried rows keep their run"


def test_nothing_changed(world: World, users: pa.Table) -> None:
    world.give(users)
    world.refresh("r0")
    candidate = world.candidate("r1")
    assert candidate.unchanged
    assert not storage.list_files(f"{world.table}/data/r1")
    world.give(users.slice(0, 10))
    assert not world.candidate("r2").unchanged


def test_dead_letters_alone_make_a_new_version(world: World, users: pa.Table) -> None:
    """The rows are the same, yet the earlier version says of itself that nothing was rejected."""
    world.give(users.slice(0, 9))
    world.refresh("r0")
    world.give(with_values(users.slice(0, 10), "as_of", [*users["as_of"].to_pylist()[:9], None]))
    candidate = world.candidate("r1")
    assert candidate.staged.unchanged
    assert candidate.dead_letters == 1
    assert not candidate.unchanged
    table = world.refresh("r1", GatesConfig(max_dead_letter_share=0.2))
    assert table.metadata().counts == VersionCounts(expected=10, written=9, dead_letters=1)
    assert table.metadata().width == 5, "no file is new, so the width is that of the version before"
    assert all("/r0/" in file for file in table.files())


def test_everybody_departs(world: World, users: pa.Table) -> None:
    world.give(users.slice(0, 3))
    world.refresh("r0")
    world.give(users.slice(5, 2))
    table = world.refresh("r1")
    assert table.metadata().counts == VersionCounts(expected=2, written=2, encoded=2, departed=3)
    assert sorted(vectors(table)) == ["u0-5", "u0-6"]


def test_a_user_with_two_rows_is_refused(world: World, users: pa.Table) -> None:
    as_of = users["as_of"].to_pylist()
    earlier = with_values(users, "as_of", [moment - dt.timedelta(days=1) for moment in as_of]).slice(4, 1)
    world.give(pa.concat_tables([users, earlier]))
    with pytest.raises(InputError, match=r"a user stands in the input 2 times \(as_of 2024-02-29") as refused:
        world.refresh("r0")
    assert "u0-4" not in str(refused.value), "errors stand in reports, which hold no ids"
    assert len(replace(world, one_row_each=False).refresh("r0").read()) == 12


def test_an_interrupted_run_writes_nothing_twice(world: World, users: pa.Table) -> None:
    world.give(users)
    build, chunks = world.build("r0"), world.chunks()
    world.stage(build, chunks)
    world.fill(build, chunks)
    written = {file: Path(file).stat().st_mtime_ns for file in storage.list_files(f"{world.table}/data")}
    world.fill(build, chunks)
    assert {file: Path(file).stat().st_mtime_ns for file in storage.list_files(f"{world.table}/data")} == written


def test_a_file_of_an_attempt_with_fewer_rows_is_written_again(world: World, users: pa.Table) -> None:
    """The first attempt had no memory for a row; the second, with another cut of the rows, has."""
    world.give(users)
    build, chunks = world.build("r0"), world.chunks()
    world.stage(build, chunks[1:])
    fits = np.array([False, *[True] * (chunks[0].rows - 1)])
    rows = read_rows(chunks[0], build, lambda user, _: np.zeros(len(user), bool)).rows
    write_staged(encode(rows, build), fits, 0, build)
    world.fill(build, chunks)
    (letter,) = pq.read_table(build.dead_letters_directory).to_pylist()
    assert (letter["user_id"], letter["reason"]) == ("u0-0", OUT_OF_MEMORY)

    world.embedding = EncodingConfig(rows_per_chunk=6)
    candidate = world.candidate("r0")
    assert candidate.counts == VersionCounts(expected=11, written=11, encoded=11)
    candidate.build.clean()
    assert storage.list_files(candidate.build.staging) == []


def test_every_instruction_has_its_rows_and_its_dead_letters(world: World, users: pa.Table) -> None:
    world.embedding = EncodingConfig(instructions={"plain": "", "spend": "how much?"}, rows_per_chunk=4)
    world.give(with_values(users, "as_of", [None, *users["as_of"].to_pylist()[1:]]))
    table = world.refresh("r0", GatesConfig(max_dead_letter_share=0.2))
    assert table.metadata().counts == VersionCounts(expected=22, written=20, dead_letters=2, encoded=20)
    plain, spend = (table.matrix(instruction=name)[1] for name in ("plain", "spend"))
    assert np.abs(plain - spend).max() > 0.1


def test_a_gate_that_fails_keeps_everything_written(world: World, users: pa.Table) -> None:
    world.give(with_values(users, "as_of", [None, *users["as_of"].to_pylist()[1:]]))
    candidate = world.candidate("r0")
    verdicts = candidate.judge(GatesConfig())
    with pytest.raises(GateError, match="dead_letters: 1 of 11 rows got no vector"):
        candidate.publish(verdicts, None, VersionMetadata())
    assert storage.list_files(candidate.build.chunks)
    assert storage.list_files(f"{world.table}/data")
    assert candidate.publish(verdicts, "one is known", VersionMetadata()) == 0
    metadata = open_table(world.table).metadata()
    assert (metadata.published_anyway, metadata.failed_gates) == ("one is known", ("dead_letters",))


def test_a_chunk_without_good_rows(world: World, users: pa.Table) -> None:
    world.give(with_values(users, "as_of", [*[None] * 4, *users["as_of"].to_pylist()[4:]]))
    table = world.refresh("r0", GatesConfig(max_dead_letter_share=0.5))
    assert table.metadata().counts == VersionCounts(expected=11, written=7, dead_letters=4, encoded=7)

"""A version out of rows by bucket and the version before: what is carried, what is kept, what departs."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm import storage
from ray_ggsm.building.buckets import BucketFiles, Counts
from ray_ggsm.building.build import Build
from ray_ggsm.building.candidate import Candidate
from ray_ggsm.building.dead_letters import OUT_OF_MEMORY
from ray_ggsm.building.layout import is_due
from ray_ggsm.config import InputError
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import checks, open_table
from ray_ggsm.tables.files import DataFileConfig
from ray_ggsm.tables.gates import GateError, GatesConfig
from ray_ggsm.tables.maintenance import forget
from ray_ggsm.tables.metadata import VersionCounts, VersionMetadata
from ray_ggsm.tables.reader import EmbeddingTable
from tests.helpers.building import BUCKETS, LOOSE, WIDTH, World, encode


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
    assert table.metadata().counts == VersionCounts(expected=11, written=11, encoded=11, new=11)
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
    assert counts == VersionCounts(expected=10, written=10, encoded=2, departed=1, new=1)
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
    assert all(bucket.kept for bucket in candidate.buckets)
    assert candidate.counts.dead_letters == 1
    assert not candidate.unchanged
    table = world.refresh("r1", LOOSE.model_copy(update={"max_dead_letter_share": 0.2}))
    assert table.metadata().counts == VersionCounts(expected=10, written=9, dead_letters=1)
    assert table.metadata().width == 5, "no file is new, so the width is that of the version before"
    assert all("/r0/" in file for file in table.files())


def test_everybody_departs(world: World, users: pa.Table) -> None:
    world.give(users.slice(0, 3))
    world.refresh("r0")
    world.give(users.slice(5, 2))
    table = world.refresh("r1")
    assert table.metadata().counts == VersionCounts(expected=2, written=2, encoded=2, departed=3, new=2)
    assert sorted(vectors(table)) == ["u0-5", "u0-6"]


def test_a_user_with_two_rows_is_refused(world: World, users: pa.Table) -> None:
    as_of = users["as_of"].to_pylist()
    earlier = with_values(users, "as_of", [moment - dt.timedelta(days=1) for moment in as_of]).slice(4, 1)
    world.give(pa.concat_tables([users, earlier]))
    with pytest.raises(InputError, match=r"1 users stand in the input several times.*repeated\.parquet lists them"):
        world.refresh("r0")
    (file,) = storage.list_files(world.build("r0").dead_letters)
    assert pq.read_table(file)["user_id"].to_pylist() == ["u0-4"]
    assert len(replace(world, one_row_each=False).refresh("r0").read()) == 12


def test_an_interrupted_run_writes_nothing_twice(world: World, users: pa.Table) -> None:
    world.give(users)
    first = world.candidate("r0")
    written = {file: Path(file).stat().st_mtime_ns for file in storage.list_files(f"{world.table}/data")}
    again = world.candidate("r0")
    assert world.encoded == 11
    assert {file: Path(file).stat().st_mtime_ns for file in storage.list_files(f"{world.table}/data")} == written
    assert again.counts == first.counts
    assert again.check.ages == first.check.ages


def test_a_row_that_finds_no_memory_becomes_a_dead_letter(world: World, users: pa.Table) -> None:
    world.give(users)
    world.no_memory_for = ("u0-2",)
    candidate = world.candidate("r0")
    assert candidate.counts == VersionCounts(expected=11, written=10, dead_letters=1, encoded=10, new=10)
    (letter,) = pq.read_table(candidate.build.dead_letters).to_pylist()
    assert (letter["user_id"], letter["reason"]) == ("u0-2", OUT_OF_MEMORY)
    assert world.candidate("r0").counts == candidate.counts, "also when it is only looked at again"
    candidate.build.clean()
    assert storage.list_files(candidate.build.rows) == []


def test_vectors_of_this_night_are_used_again_after_another_commit(world: World, users: pa.Table) -> None:
    world.give(users.slice(0, 8))
    world.refresh("r0")
    world.give(with_another_row(with_another_row(users, 2), 5))
    build, previous = world.build("r1"), open_table(world.table)
    layout = world.lay_out(build, previous)
    for bucket in world.buckets(build, layout, previous):
        world.write(bucket, build)
    encoded = world.encoded
    forget(world.table, ["u0-0"], b"0123456789abcdef")
    now, gone = open_table(world.table), int(bucket_of(pa.array(["u0-0"]), BUCKETS)[0])
    counts = {}
    for bucket in world.buckets(build, layout, now):
        earlier = [f for f in storage.list_files(f"{build.data}/bucket={bucket.number}") if bucket.part not in f]
        paths = tuple(file.removeprefix(f"{world.table}/") for file in earlier)
        assert bool(paths) == (bucket.number == gone)
        counts[bucket.number] = world.write(replace(bucket, earlier=paths), build).counts
    assert world.encoded == encoded, "nobody is encoded twice"
    rows = open_table(world.table).read(version=1)
    assert "u0-0" not in rows["user_id"].to_pylist()
    (file,) = [f for f in storage.list_files(f"{build.data}/bucket={gone}") if build.part(_files(now, gone)) in f]
    written = pq.read_table(file)
    assert "u0-0" not in written["user_id"].to_pylist()
    in_bucket = {f"u0-{i}" for i in range(1, 11) if bucket_of(pa.array([f"u0-{i}"]), BUCKETS)[0] == gone}
    assert set(written["user_id"].to_pylist()) == in_bucket
    new = len(in_bucket & {"u0-8", "u0-9", "u0-10"})
    assert counts[gone] == Counts(encoded=len(in_bucket & {"u0-2", "u0-5", "u0-8", "u0-9", "u0-10"}), new=new)


def _files(table: EmbeddingTable, bucket: int) -> list:
    return [file for file in table.data_files() if file.bucket == bucket]


def write_as_of(world: World, build: Build, previous: EmbeddingTable) -> Candidate:
    """The buckets of a run on a version, which may use what the run has written for another one before."""
    layout = world.lay_out(build, previous)
    built = []
    for bucket in world.buckets(build, layout, previous):
        place = f"{build.data}/bucket={bucket.number}"
        files = storage.list_files(place) if Path(place).is_dir() else []
        earlier = tuple(f.removeprefix(f"{world.table}/") for f in files if bucket.part not in f)
        built.append(world.write(replace(bucket, earlier=earlier), build))
    users = sum(part.fresh + sum(part.ages.values()) for part in layout.parts)
    expected = users * len(world.embedding.instructions)
    return Candidate(build, built, checks.merge(each.check for each in built), previous, True, expected, 0)


def test_a_night_that_was_broken_off_before_an_earlier_one_was_made_up(world: World, users: pa.Table) -> None:
    """Night 2 encodes users and is killed; night 1 encodes some of them; then they keep night 1's vector in night 2."""

    def night(day: int, rows: pa.Table) -> pa.Table:
        return with_values(rows, "as_of", [moment + dt.timedelta(days=day) for moment in rows["as_of"].to_pylist()])

    def changed(rows: pa.Table, at: int) -> pa.Table:
        bills = rows["bill"].to_pylist()
        bills[at] = [*(bills[at] or []), {**(bills[at] or bills[0])[-1], "text": "another one"}]
        return with_values(rows, "bill", bills)

    world.max_age_days = 10_000
    world.give(users)
    first = world.refresh("r0")
    earlier = changed(changed(users, 2), 5)  # all three are in the same bucket
    world.give(night(2, changed(earlier, 8)))
    build = world.build("r2")
    write_as_of(world, build, first)
    assert world.encoded == 11 + 3
    world.give(night(1, earlier))
    second = world.refresh("r1")
    assert world.encoded == 11 + 3 + 2
    world.give(night(2, changed(earlier, 8)))
    candidate = write_as_of(world, build, second)
    assert world.encoded == 11 + 3 + 2, "what was encoded for another version is used again"
    candidate.publish(candidate.judge(LOOSE), None, VersionMetadata())
    rows = open_table(world.table).read().to_pylist()
    start = users["as_of"][0].as_py()
    days = {f"u0-{i}": {2: 1, 5: 1, 8: 2}.get(i, 0) for i in range(11)}
    assert sorted((row["user_id"], (row["as_of"] - start).days) for row in rows) == sorted(days.items())


def test_a_later_moment_is_another_content_unless_vectors_may_be_carried(world: World, users: pa.Table) -> None:
    world.give(users)
    world.refresh("r0")
    later = [moment + dt.timedelta(days=1) for moment in users["as_of"].to_pylist()]
    world.give(with_values(users, "as_of", later))
    assert world.candidate("r1").counts.encoded == 11
    # numbers of users change every day; with `when: events` they do not matter
    moved = with_values(users, "as_of", later)
    world.give(with_values(moved, "tabular", [[value + 1 for value in row] for row in moved["tabular"].to_pylist()]))
    world.max_age_days = 4
    first = world.refresh("r2")
    assert first.metadata().counts.encoded == 11, "the content of the version before counted the numbers, too"
    for days in (2, 3, 4, 5, 6):
        world.give(with_values(moved, "as_of", [moment + dt.timedelta(days=days) for moment in later]))
        table = world.refresh(f"night-{days}", LOOSE)
        ages = [(max(table.read()["as_of"].to_pylist()) - moment).days for moment in table.read()["as_of"].to_pylist()]
        assert 0 < table.metadata().counts.encoded < 11
        assert max(ages) < 4
        assert sum(table.metadata().ages.values()) == 11


def test_the_turns_of_users_are_spread_over_the_nights() -> None:
    users = pa.chunked_array([pa.array([f"u{i}" for i in range(4000)])])
    start = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)

    def due(vector_day: int, night: int) -> np.ndarray:
        moments = [
            pa.chunked_array([pa.array([start + dt.timedelta(days=day)] * len(users), pa.timestamp("us", "UTC"))])
            for day in (vector_day, night)
        ]
        return is_due(users, *moments, "UTC", 10)

    for night in range(1, 10):
        assert abs(due(0, night).mean() - night / 10) < 0.05
        assert np.all(due(0, night) <= due(0, night + 1)), "a turn that was missed is made up"
    assert due(0, 10).all()
    assert not due(3, 3).any()
    assert due(3, 2).all(), "a vector of the future is not kept"


def test_every_instruction_has_its_rows_and_its_dead_letters(world: World, users: pa.Table) -> None:
    world.embedding = EncodingConfig(instructions={"plain": "", "spend": "how much?"})
    world.give(with_values(users, "as_of", [None, *users["as_of"].to_pylist()[1:]]))
    table = world.refresh("r0", LOOSE.model_copy(update={"max_dead_letter_share": 0.2}))
    assert table.metadata().counts == VersionCounts(expected=22, written=20, dead_letters=2, encoded=20, new=20)
    plain, spend = (table.matrix(instruction=name)[1] for name in ("plain", "spend"))
    assert np.abs(plain - spend).max() > 0.1


def test_a_user_with_a_row_that_found_no_memory_is_encoded_again_after_another_commit(
    world: World, users: pa.Table
) -> None:
    world.embedding = EncodingConfig(instructions={"plain": "", "spend": "how much?"})
    world.give(users.slice(9, 1))
    first = world.refresh("r0")
    world.give(users)
    build = world.build("r1")
    for bucket in world.buckets(build, world.lay_out(build, first), first):
        files = BucketFiles(bucket, build)
        rows = encode(files.fresh(), build)
        lost = [row["user_id"] == "u0-3" and row["instruction"] == "spend" for row in rows.to_pylist()]
        files.write(rows, ~np.array(lost, dtype=bool))
    forget(world.table, ["u0-9"], b"0123456789abcdef")  # of the same bucket
    candidate = write_as_of(world, build, open_table(world.table))
    candidate.publish(candidate.judge(LOOSE), None, VersionMetadata())
    keys = [(row["user_id"], row["instruction"]) for row in open_table(world.table).read().to_pylist()]
    assert sorted(keys) == sorted((f"u0-{i}", name) for i in range(11) for name in ("plain", "spend"))


def test_a_gate_that_fails_keeps_everything_written(world: World, users: pa.Table) -> None:
    world.give(with_values(users, "as_of", [None, *users["as_of"].to_pylist()[1:]]))
    candidate = world.candidate("r0")
    verdicts = candidate.judge(GatesConfig())
    with pytest.raises(GateError, match="dead_letters: 1 of 11 rows got no vector"):
        candidate.publish(verdicts, None, VersionMetadata())
    assert storage.list_files(f"{world.table}/data")
    assert candidate.publish(verdicts, "one is known", VersionMetadata()) == 0
    metadata = open_table(world.table).metadata()
    assert (metadata.published_anyway, metadata.failed_gates) == ("one is known", ("dead_letters",))


def test_a_chunk_without_good_rows(world: World, users: pa.Table) -> None:
    world.give(with_values(users, "as_of", [*[None] * 4, *users["as_of"].to_pylist()[4:]]))
    table = world.refresh("r0", LOOSE.model_copy(update={"max_dead_letter_share": 0.5}))
    assert table.metadata().counts == VersionCounts(expected=11, written=7, dead_letters=4, encoded=7, new=7)


def test_a_prefix_is_published_at_length_1_and_carried_as_it_is(world: World, users: pa.Table) -> None:
    world.give(users)
    whole = vectors(world.refresh("r0"))
    narrow = World(world.directory / "narrow", files=DataFileConfig(dimensions=3))
    narrow.directory.mkdir()
    narrow.give(users)
    first = narrow.refresh("r0")
    assert first.metadata().width == 3
    for user, vector in vectors(first).items():
        length = sum(value**2 for value in whole[user][:3]) ** 0.5
        assert vector == pytest.approx([value / length for value in whole[user][:3]], abs=1e-6)
    narrow.give(with_another_row(users, 2))
    second = narrow.refresh("r1")
    kept = vectors(second).keys() - {"u0-2"}
    assert {user: vectors(second)[user] for user in kept} == {user: vectors(first)[user] for user in kept}


def test_all_dimensions_are_published_to_the_bit(world: World, users: pa.Table) -> None:
    world.give(users)
    whole = vectors(world.refresh("r0"))
    same = World(world.directory / "same", files=DataFileConfig(dimensions=WIDTH))
    same.directory.mkdir()
    same.give(users)
    assert vectors(same.refresh("r0")) == whole

"""The training order: a function of the seed alone, every row at most once an epoch, the same batch for any workers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.training.pairs import Mixed, Pairs, training_pairs

ROWS = 211


@pytest.fixture
def location(tmp_path) -> str:
    table = pa.table({"user_id": [str(i) for i in range(ROWS)]})
    pq.write_table(table.slice(0, 130), tmp_path / "a.parquet", row_group_size=17)
    pq.write_table(table.slice(130), tmp_path / "b.parquet", row_group_size=23)
    return str(tmp_path)


def ids(pairs: Pairs, step: int, rank: int = 0, workers: int = 1) -> list[str]:
    return pairs.batch(step, rank, workers)["user_id"].to_pylist()


def test_an_epoch_has_no_row_twice_and_epochs_differ(location) -> None:
    pairs = Pairs(location, batch_size=19, seed=3, window_groups=3)
    steps = pairs.steps_per_epoch
    assert steps == ROWS // 19
    epochs = [[i for s in range(steps) for i in ids(pairs, e * steps + s)] for e in range(2)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == steps * 19
    assert epochs[0] != epochs[1]


def test_any_step_can_be_read_first(location) -> None:
    straight = Pairs(location, 19, 3, window_groups=2)
    order = [ids(straight, s) for s in range(25)]
    for step in (24, 7, 13):
        assert ids(Pairs(location, 19, 3, window_groups=2), step) == order[step]
    assert ids(Pairs(location, 19, 4, window_groups=2), 0) != order[0]


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_share_the_same_global_batch(location, workers) -> None:
    pairs = Pairs(location, 19, 0)
    for step in (0, 10, 11):
        slices = [ids(pairs, step, rank, workers) for rank in range(workers)]
        assert [i for part in slices for i in part] == ids(pairs, step)
        assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_too_few_rows_are_refused(location) -> None:
    with pytest.raises(InputError, match=r"211 training rows, .* lower training\.batch_size"):
        Pairs(location, 212, 0)


@pytest.mark.parametrize("lanes", [2, 3])
def test_with_lanes_batches_stay_the_same_for_any_workers_and_rows_are_not_repeated(location, lanes) -> None:
    pairs = Pairs(location, 19, 0, window_groups=2, lane_groups=1, lanes=lanes)
    assert len(pairs.lanes) == lanes
    epoch = [i for s in range(pairs.steps_per_epoch) for i in ids(pairs, s)]
    assert len(set(epoch)) == len(epoch) == pairs.steps_per_epoch * 19
    assert len(epoch) > 0.8 * ROWS
    for step in (0, 3, pairs.steps_per_epoch + 1):
        for workers in (2, 5, 7):
            slices = [ids(pairs, step, rank, workers) for rank in range(workers)]
            assert [i for part in slices for i in part] == ids(pairs, step)


def test_with_lanes_a_worker_reads_its_own_lanes_only(location) -> None:
    pairs = Pairs(location, 18, 0, lane_groups=1, lanes=3)
    for step in range(pairs.steps_per_epoch):
        ids(pairs, step, 1, 3)
    assert {lane for _, lane, _ in pairs._windows} == {1}


def test_no_more_than_two_windows_a_lane_are_held(location) -> None:
    pairs = Pairs(location, 19, 0, window_groups=1)
    for step in range(2 * pairs.steps_per_epoch):
        ids(pairs, step)
        assert len(pairs._windows) <= 2


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_mixed_batch_has_its_share_of_each_source(location, workers, tmp_path_factory) -> None:
    """Each source in its own order; what a source does not have is null."""
    asked = tmp_path_factory.mktemp("asked")
    pq.write_table(pa.table({"user_id": [f"q{i}" for i in range(90)], "query": ["why?"] * 90}), asked / "a.parquet")
    mixed = training_pairs(location, str(asked), 20, 8, 3, None)
    assert isinstance(mixed, Mixed)
    behaviour, questions = Pairs(location, 12, 3), Pairs(str(asked), 8, 3)
    for step in (0, 5, 30):
        parts = [mixed.batch(step, rank, workers) for rank in range(workers)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 2
        rows = pa.concat_tables(parts)
        assert sorted(rows["user_id"].to_pylist()) == sorted(ids(behaviour, step) + ids(questions, step))
        assert [q is not None for q in rows["query"].to_pylist()] == [u[0] == "q" for u in rows["user_id"].to_pylist()]
    assert isinstance(training_pairs(location, None, 20, 0, 3, None), Pairs)
    assert training_pairs(location, str(asked), 20, 20, 3, None).batch(0)["query"].null_count == 0
    with pytest.raises(InputError, match="less than a batch of 100"):
        training_pairs(location, str(asked), 100, 100, 3, None)


@pytest.mark.parametrize("extra", [0, 6])
def test_rows_that_are_hardly_more_than_a_batch_still_make_one(extra: int, tmp_path: Path) -> None:
    """With many row groups the shortest lane has fewer rows than its share."""
    sizes = [16 + n % 2 for n in range(64)]
    rows = sum(sizes)
    table = pa.table({"user_id": [str(i) for i in range(rows)]})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for first, size in zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False):
            writer.write_table(table.slice(first, size))
    pairs = Pairs(str(tmp_path), rows - extra, 0)
    assert pairs.steps_per_epoch == 1
    for step in (0, 1):
        assert len(set(ids(pairs, step))) == rows - extra

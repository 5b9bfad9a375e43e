"""An index whose shards are tasks of a cluster is the one that is built without Ray."""

from pathlib import Path

import pytest

from ray_ggsm.tables import open_table
from ray_ggsm.tables.neighbours.build import build_index
from ray_ggsm.tables.neighbours.layout import USERS, IndexSettings
from tests.helpers.tables import job, put, rows

pytest.importorskip("faiss", reason="faiss is not installed (the extra `neighbours`)")


def test_shards_are_tasks_and_the_index_is_the_same(tmp_path: Path, monkeypatch, capsys) -> None:
    """A damaged data file is an error with a sentence, as without Ray."""
    alone, there = str(tmp_path / "alone"), str(tmp_path / "there")
    for location in (alone, there):
        put(location, rows(900, instruction="default"), "r0")
    expected = build_index(open_table(alone), settings=IndexSettings(rows_per_shard=300))
    assert len(expected.shards) > 1
    monkeypatch.setenv("RAY_ADDRESS", "the cluster of these tests")
    assert job("index", there, "--rows-per-shard", "300") == 0
    assert f"900 rows of 'default' in {len(expected.shards)} shards" in capsys.readouterr().out
    made = open_table(there).index().manifest
    assert [shard.files[USERS] for shard in made.shards] == [shard.files[USERS] for shard in expected.shards]
    assert made.quality is not None
    put(there, rows(900, seed=1, instruction="default"), "r1")
    Path(there, open_table(there).data_files()[0].path).write_bytes(b"damaged")
    assert job("index", there, "--rows-per-shard", "300") == 2
    assert "smaller than the minimum file footer" in capsys.readouterr().err

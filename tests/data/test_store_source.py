"""A shard of an event store, as a task gets it."""

import pickle
from pathlib import Path

import pytest

from ray_ggsm.data.store.manifest import read_state
from ray_ggsm.data.store.source import EventStore
from ray_ggsm.hashing import key_id, pseudonym

DATA = Path(__file__).parent / "old_stores"


@pytest.mark.parametrize("place", sorted(DATA.iterdir()), ids=lambda place: place.name)
def test_a_task_gets_the_files_of_its_bucket_and_names_nobody_else(place: Path) -> None:
    key, state = b"k" * 32, read_state(str(place))
    assert state.key_id == key_id(key)
    source = EventStore(str(place), None, {}, {})
    shards = [source.of_shard(k) for k in range(source.shards(1))]
    for name, files in source.all_files.items():
        for k, shard in enumerate(shards):
            expected = [f"{place}/tables/{name}/{file.path}" for file in files if file.bucket == k]
            assert shard.paths is not None
            assert list(shard.paths[name]) == expected
    assert state.suppressed == (pseudonym("bob", key),)
    for shard in shards:
        assert state.suppressed[0].encode() not in pickle.dumps(shard)
        assert shard.held.sequence == state.sequence
        assert shard.tables() == source.tables()

"""Event stores that older commits wrote are read by this one.

Each directory below `old_stores` has the name of the commit that wrote it: a day with ann, bob and a bad record of cat,
then bob was forgotten, then a day with ann and dan.
"""

from pathlib import Path

import pytest

from ray_ggsm.data.store.manifest import check_key, read_manifests, read_state
from ray_ggsm.data.user_records import store_records

DATA = Path(__file__).parent / "old_stores"


@pytest.mark.parametrize("name", sorted(place.name for place in DATA.iterdir()))
def test_records_and_history_are_the_same(name: str) -> None:
    store = str(DATA / name)
    items = {
        user: sorted(str(item) for table in store_records(store, [user]).values() for item in _items(table))
        for user in ("ann", "bob", "cat", "dan")
    }
    assert items == {"ann": ["x", "x2"], "bob": [], "cat": ["ts = never"], "dan": ["y2"]}
    assert [each.operation for each in read_manifests(store)] == ["ingest", "forget", "ingest"]
    state = read_state(store)
    assert state.days == ("2025-03-01", "2025-03-02")
    assert len(state.suppressed) == 1
    check_key(state, b"k" * 32, "key_file")


def _items(table) -> list:
    return table["item" if "item" in table.column_names else "detail"].to_pylist()

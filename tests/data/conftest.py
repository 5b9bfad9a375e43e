import pytest


@pytest.fixture
def clicks() -> dict:
    """A small valid config over `clicks.csv` in the working directory; tests change what they need."""
    return {
        "source": {"kind": "files", "tables": {"clicks": {"files": "clicks.csv", "user": "uid", "time": "ts"}}},
        "modalities": {"view": {"table": "clicks", "text": "{item}", "amount": "price", "keep": 3}},
        "snapshots": {
            "cutoffs": ["2024-03-01", "2024-03-11", "2024-03-21"],
            "history_days": 20,
            "future_days": 10,
            "minimum_events": {"table": "clicks", "count": 1},
        },
        "users": {"test_percent": 0},
        "splits": {
            "pretrain": {"role": "train", "users": "train", "cutoffs": [0]},
            "probe": {"role": "fit", "users": "train", "cutoffs": [1]},
        },
        "labels": {"active": {"group": "g", "table": "clicks", "sql": "count(*) > 0"}},
        "max_bad_share": 0.5,
    }

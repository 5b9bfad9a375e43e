"""Event files day by day, and what a store holds, read by Delta Lake's own reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from ray_ggsm.config import build
from ray_ggsm.data.store.layout import table_place
from ray_ggsm.data.store.manifest import read_state
from ray_ggsm.delta import storage_options
from ray_ggsm.on_ray.ingest import IngestConfig

Event = tuple[str, str, str]
"""User, time, item."""


def write_day(place: Path, day: str, events: Sequence[Event], part: str = "a") -> Path:
    """Some events of a day as a CSV file."""
    file = place / f"day={day}" / f"{part}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("uid,ts,item\n" + "".join(f"{','.join(event)}\n" for event in events))
    return file


def ingest_config(place: Path, store: str, **changes: Any) -> IngestConfig:
    """Takes the files of `write_day` into a store of 4 buckets."""
    tables = {"clicks": {"files": f"{place}/day={{day}}/*.csv", "user": "uid", "time": "ts"}}
    values = {"store": store, "tables": tables, "buckets": 4, "max_bad_share": 0.5, **changes}
    return build(IngestConfig, values, "test")


def held(store: str, table: str = "clicks", manifest: int | None = None) -> pa.Table:
    """All rows of a table as of a manifest."""
    version = read_state(store, manifest).tables[table].version
    options = storage_options(store)
    return DeltaTable(table_place(store, table), version=version, storage_options=options).to_pyarrow_table()


def events(store: str, manifest: int | None = None) -> list[Event]:
    """User, time and item of every row, sorted."""
    rows = held(store, manifest=manifest).select(["uid", "ts", "item"]).to_pylist()
    return sorted((row["uid"], f"{row['ts']:%Y-%m-%d %H:%M:%S}", row["item"]) for row in rows)

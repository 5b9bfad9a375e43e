"""Jobs whose inputs and outputs all lie in an emulated object store, each in a process with a cluster of its own."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from ray_ggsm import storage
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.model import saved
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, LoraConfig, ModelConfig
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.tables import open_table
from tests.helpers import ROOT
from tests.helpers.event_store import events
from tests.helpers.waiting import Process


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str]) -> Callable[..., Process]:
    """Starts jobs/NAME.py with a config."""

    def run(name: str, values: dict, number: int = 0) -> Process:
        config = tmp_path / f"{name}-{number}.yaml"
        config.write_text(yaml.safe_dump(values))
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--config", str(config)]
        return Process(command, tmp_path / f"{name}-{number}", tmp_path, environment)

    return run


def small_encoder(decoder: str, event_encoder: str) -> EncoderBundle:
    """An untrained encoder for the rows of `make_rows`."""
    events = EventEncoder(EventEncoderConfig(name=event_encoder), torch.device("cpu"))
    model = ModelConfig(
        backbone=BackboneConfig(name=decoder, layers=2),
        event_encoder=events.config,
        lora=LoraConfig(r=3, alpha=3),
        dtype="float32",
        tabular_tokens=2,
    )
    modalities, features = (Modality("bill", 7), Modality("app", 5)), tuple(f"f{i}" for i in range(7))
    mask = BidirectionalConfig(recipe="bidirectional")
    return saved.new_encoder(model, mask, modalities, features, events.width, events.digest, 0)


def test_ingest(bucket: str, start: Callable) -> None:
    for day, user in (("2024-03-01", "ann"), ("2024-03-02", "bob")):
        storage.write_text(f"{bucket}/log/day={day}/a.csv", f"uid,ts,item\n{user},{day} 12:00:00,shoes\n")
    tables = {"clicks": {"files": f"{bucket}/log/day={{day}}/*.csv", "user": "uid", "time": "ts"}}
    values = {"store": f"{bucket}/store", "tables": tables, "buckets": 4}
    start("ingest", values).succeed()
    expected = [("ann", "2024-03-01 12:00:00", "shoes"), ("bob", "2024-03-02 12:00:00", "shoes")]
    assert events(f"{bucket}/store") == expected
    start("ingest", values, 1).succeed()
    assert events(f"{bucket}/store") == expected, "nothing twice"


def test_refresh_from_rows(
    bucket: str, start: Callable, make_rows: Callable, tiny_decoder: str, tiny_event_encoder: str
) -> None:
    saved.save(small_encoder(tiny_decoder, tiny_event_encoder), f"{bucket}/encoder")
    rows = make_rows(13).drop_columns("future")
    storage.write_parquet(f"{bucket}/rows/a.parquet", rows)
    gates = {"max_similarity": 1.0, "min_previous_share": 0.5, "max_departed_share": 0.5}
    values = {
        "rows": f"{bucket}/rows/*.parquet",
        "encoder": f"{bucket}/enc*",
        "table": f"{bucket}/users",
        "embedding": {"tokens_per_batch": 512},
        "publishing": {"rows_per_bucket": 4, "gates": gates},
    }
    start("refresh", values).succeed()
    table = open_table(f"{bucket}/users")
    assert (table.version, sorted(table.read()["user_id"].to_pylist())) == (0, sorted(rows["user_id"].to_pylist()))
    assert table.verify(deep=True) == []
    assert not storage.exists(f"{bucket}/users/refresh.lock")

    storage.write_parquet(f"{bucket}/rows/a.parquet", rows.slice(1))
    start("refresh", values, 1).succeed()
    table = open_table(f"{bucket}/users")
    assert (table.version, len(table.read()), table.metadata().counts.encoded) == (1, 12, 0), "vectors are kept"

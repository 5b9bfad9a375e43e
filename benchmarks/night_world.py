"""What the refresh benchmarks share: made-up users, a tiny random encoder and a config for jobs/refresh.py."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ray_ggsm.masks.fixed import BidirectionalConfig  # noqa: E402
from ray_ggsm.model.config import (  # noqa: E402
    BackboneConfig,
    EventEncoderConfig,
    LoraConfig,
    ModelConfig,
)
from ray_ggsm.model.event_encoder import EventEncoder  # noqa: E402
from ray_ggsm.model.saved import new_encoder, save  # noqa: E402
from ray_ggsm.model.template import Modality  # noqa: E402
from tests.helpers.models import write_decoder, write_event_encoder  # noqa: E402
from tests.helpers.rows import user_rows  # noqa: E402

MODALITIES = (Modality("bill", 7), Modality("app", 5))


class World:
    """A directory with input rows, an encoder and `config.json`; the table is refreshed by the real job."""

    def __init__(self, directory: Path, users: int, rows_per_group: int, **settings: Any) -> None:
        """`settings` are further sections of the config."""
        self.directory, self.rows_per_group = directory, rows_per_group
        self.table, self.config = str(directory / "users"), directory / "config.json"
        for name, write in (("decoder", write_decoder), ("event_encoder", write_event_encoder)):
            (directory / name).mkdir()
            write(directory / name)
        events = EventEncoderConfig(name=str(directory / "event_encoder"), dtype="float32", max_tokens=16)
        model = ModelConfig(
            backbone=BackboneConfig(name=str(directory / "decoder"), layers=2), event_encoder=events,
            lora=LoraConfig(r=2, alpha=2), dtype="float32", tabular_tokens=2,
        )  # fmt: skip
        encoder = EventEncoder(events, torch.device("cpu"))
        width = encoder.encode(["item 1"]).shape[1]
        features = tuple(f"f{i}" for i in range(7))
        mask = BidirectionalConfig(recipe="bidirectional")
        save(new_encoder(model, mask, MODALITIES, features, width, encoder.digest, 0), str(directory / "encoder"))
        self._write_config(settings)
        block = user_rows(min(users, 500)).drop_columns("future")
        parts = [_renamed(block, start) for start in range(0, users, len(block))]
        self.rows = pa.concat_tables(parts).slice(0, users)
        self.give()

    def give(self) -> None:
        """Make `rows` the input."""
        (self.directory / "rows").mkdir(exist_ok=True)
        pq.write_table(self.rows, self.directory / "rows" / "part.parquet", row_group_size=self.rows_per_group)

    def change(self, share: float, seed: int) -> None:
        """Give a share of the users other numbers."""
        rng = np.random.default_rng(seed)
        changed_N = rng.random(len(self.rows)) < share
        numbers_NF = np.array(self.rows["tabular"].to_pylist(), dtype=np.float32)
        numbers_NF[changed_N] = rng.normal(size=(changed_N.sum(), numbers_NF.shape[1]))
        at = self.rows.column_names.index("tabular")
        column = pa.array(numbers_NF.tolist(), pa.list_(pa.float32()))
        self.rows = self.rows.set_column(at, "tabular", column)
        self.give()

    def command(self, *arguments: str) -> list[str]:
        """The job."""
        return [sys.executable, str(ROOT / "jobs" / "refresh.py"), "--config", str(self.config), *arguments]

    def _write_config(self, settings: dict[str, Any]) -> None:
        config = {
            "rows": f"{self.directory}/rows/*.parquet",
            "encoder": str(self.directory / "encoder"),
            "table": self.table,
            "ray": {"local_object_store_gb": 0.3, "embed_workers": 2, "cache": str(self.directory / "cache")},
            **settings,
        }
        self.config.write_text(json.dumps(config))


def _renamed(rows: pa.Table, start: int) -> pa.Table:
    """The same histories, of other users with other numbers."""
    users = pa.array([f"user-{start + i:09d}" for i in range(len(rows))])
    shifted = pc.add(pc.list_flatten(rows["tabular"]), float(start % 9973) / 9973)
    tabular = pa.ListArray.from_arrays(np.arange(len(rows) + 1) * 7, shifted.combine_chunks().cast(pa.float32()))
    return rows.set_column(0, "user_id", users).set_column(rows.column_names.index("tabular"), "tabular", tabular)

"""Data configs: those of tests, and the shipped ones."""

from pathlib import Path

import pyarrow.parquet as pq
import yaml

from ray_ggsm.config import Config, build
from ray_ggsm.data.config import DataConfig

CONFIGS = Path(__file__).parents[2] / "configs"


class Root(Config):
    data: DataConfig


def data_config(values: dict) -> DataConfig:
    return build(Root, {"data": values}, "test.yaml").data


def shipped(path: str) -> dict:
    return yaml.safe_load((CONFIGS / path).read_text())["data"]


def dead_letters(place: str = "out") -> list[tuple[str, str]]:
    """Place and reason of every dead letter that prepare wrote below a directory."""
    if not Path(place, "dead_letters").exists():
        return []
    return sorted((row["source"], row["reason"]) for row in pq.read_table(f"{place}/dead_letters").to_pylist())

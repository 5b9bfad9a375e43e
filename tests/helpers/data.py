"""Data configs: those of tests, and the shipped ones."""

from pathlib import Path

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

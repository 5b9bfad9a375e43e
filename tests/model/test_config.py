"""The encoder's settings."""

import subprocess
import sys

import torch

from ray_ggsm.model.config import EventEncoderConfig, ModelConfig, PretrainedConfig


def test_reading_them_loads_no_torch() -> None:
    script = "import sys, ray_ggsm.model.config\nassert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_types_for_torch() -> None:
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        events = EventEncoderConfig(name="e", dtype=name)
        assert events.torch_dtype == dtype
        assert ModelConfig(backbone=PretrainedConfig(name="b"), event_encoder=events, dtype=name).torch_dtype == dtype

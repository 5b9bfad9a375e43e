"""The encoder's settings."""

import subprocess
import sys

import pytest
import torch

from ray_ggsm.config import InputError, build
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, ModelConfig


def test_reading_them_loads_no_torch() -> None:
    script = "import sys, ray_ggsm.model.config\nassert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_types_for_torch() -> None:
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        events = EventEncoderConfig(name="e", dtype=name)
        assert events.torch_dtype == dtype
        assert ModelConfig(backbone=BackboneConfig(name="b"), event_encoder=events, dtype=name).torch_dtype == dtype


def test_an_unknown_attention_is_one_sentence() -> None:
    values = {"backbone": {"name": "b"}, "event_encoder": {"name": "e"}, "attention": "flash"}
    with pytest.raises(InputError) as raised:
        build(ModelConfig, values, "model.yaml")
    expected = "model.yaml: attention: input should be 'auto', 'sdpa', 'flex' or 'eager', found 'flash'"
    assert str(raised.value) == expected

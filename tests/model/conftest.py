"""A tiny encoder with a lookup that needs no event encoder."""

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.masks import RecipeConfig
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.model.config import EventEncoderConfig, LoraConfig, ModelConfig, PretrainedConfig
from ray_ggsm.model.saved import EncoderBundle, new_encoder
from ray_ggsm.model.template import Modality

WIDTH = 12


def lookup(texts: pa.Array) -> np.ndarray:
    """A fixed random vector per text."""
    seeds = [int(hashlib.md5(t.encode()).hexdigest()[:8], 16) for t in texts.to_pylist()]
    return np.array([np.random.default_rng(s).normal(size=WIDTH) for s in seeds], dtype=np.float32).reshape(-1, WIDTH)


def encoder_on(decoder: str, mask: RecipeConfig, **model) -> EncoderBundle:
    """A float32 encoder for the rows of `make_rows`, on the decoder in a directory."""
    config = ModelConfig(
        backbone=PretrainedConfig(name=decoder, layers=2),
        event_encoder=EventEncoderConfig(name="unused"),
        **{"lora": LoraConfig(r=3, alpha=3), "dtype": "float32", "tabular_tokens": 2, **model},
    )
    features = tuple(f"f{i}" for i in range(7))
    return new_encoder(config, mask, (Modality("bill", 7), Modality("app", 5)), features, WIDTH, "events", 0)


@pytest.fixture
def make_encoder(tiny_decoder: str) -> Callable[..., EncoderBundle]:
    """Builds encoders on the tiny decoder."""

    def make(mask: RecipeConfig | None = None, **model) -> EncoderBundle:
        return encoder_on(tiny_decoder, mask or BidirectionalConfig(recipe="bidirectional"), **model)

    return make

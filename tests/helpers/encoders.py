"""Encoders on a tiny decoder, one mask of every recipe, and a lookup that needs no event encoder."""

import hashlib

import numpy as np
import pyarrow as pa
import torch

from ray_ggsm.masks import RecipeConfig
from ray_ggsm.masks.fixed import BidirectionalConfig, CausalConfig, HybridGQConfig, OracleConfig, PrefixConfig
from ray_ggsm.masks.ggsm import GGSMConfig, HybridMaskConfig
from ray_ggsm.masks.hybrid_mlp import HybridMLPConfig
from ray_ggsm.masks.scheduler import ConstantConfig, SchedulerConfig
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, LoraConfig, ModelConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import EncoderBundle, new_encoder
from ray_ggsm.training.old_space import OldSpace

WIDTH = 12


def lookup(texts: pa.Array) -> np.ndarray:
    """A fixed random vector per text."""
    seeds = [int(hashlib.md5(t.encode()).hexdigest()[:8], 16) for t in texts.to_pylist()]
    return np.array([np.random.default_rng(s).normal(size=WIDTH) for s in seeds], dtype=np.float32).reshape(-1, WIDTH)


def encoder_on(decoder: str, mask: RecipeConfig, backbone: dict | None = None, seed: int = 0, **model) -> EncoderBundle:
    """A float32 encoder for the rows of `make_rows`, on the decoder in a directory."""
    config = ModelConfig(
        backbone=BackboneConfig(name=decoder, layers=2, **(backbone or {})),
        event_encoder=EventEncoderConfig(name="unused"),
        **{"lora": LoraConfig(r=3, alpha=3), "dtype": "float32", "tabular_tokens": 2, **model},
    )
    features = tuple(f"f{i}" for i in range(7))
    return new_encoder(config, mask, (Modality("bill", 7), Modality("app", 5)), features, WIDTH, "events", seed)


RECIPES = [
    CausalConfig(recipe="causal"),
    BidirectionalConfig(recipe="bidirectional"),
    SchedulerConfig(recipe="scheduler", total_steps=10),
    GGSMConfig(recipe="ggsm", total_steps=10),
    SchedulerConfig(recipe="scheduler", shape="window", total_steps=10),
    ConstantConfig(recipe="constant", total_steps=10),
    HybridMaskConfig(recipe="hybrid_mask", total_steps=10),
    HybridMLPConfig(recipe="hybrid_mlp"),
    HybridGQConfig(recipe="hybrid_gq"),
    PrefixConfig(recipe="prefix"),
    OracleConfig(recipe="oracle"),
]


def nominal_peak(device: torch.device, dtype: torch.dtype) -> float:
    """In the place of `training.flops.peak_flops`, whose measurement takes a second."""
    return 1e9


OLD_WIDTH = 6


def made_up_vectors(rows: pa.Table) -> torch.Tensor:
    """A fixed random vector per user and moment, in the place of an older encoder's."""
    keys = [
        f"{user} {moment}" for user, moment in zip(rows["user_id"].to_pylist(), rows["as_of"].to_pylist(), strict=True)
    ]
    return torch.from_numpy(lookup(pa.array(keys, pa.string()))[:, :OLD_WIDTH].copy())


def old_space(W: int) -> OldSpace:
    """The head of the older space, of weight 3, for new vectors of this width."""
    return OldSpace(W, OLD_WIDTH, 3.0, 0, made_up_vectors)

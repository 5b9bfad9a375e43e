"""Where the checks run and how large they are; encoders with equal weights on two devices.

Legend: B rows, D width, S slots of the template.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter
from torch import Tensor

from gpu_checks.made_up import EVENT_WIDTH, FEATURES, MODALITIES, Decoder, lookup, user_rows
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.masks import MaskConfig, RecipeConfig, with_total_steps
from ray_ggsm.model.batch import Collator, tabular_matrix
from ray_ggsm.model.config import BackboneConfig, EventEncoderConfig, LoraConfig, ModelConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import EncoderBundle, new_encoder
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.optimizer import OptimizerConfig
from ray_ggsm.training.workers import ALONE

Dtype = Literal["float32", "bfloat16"]
Attention = Literal["eager", "sdpa", "flex"]

CPU = torch.device("cpu")
STEPS = 10
KEEP = 200
"""Newest events of a modality that an encoder keeps."""
SMALL = Decoder(width=64, inner=96, layers=2, heads=4, key_heads=2, window=24, spread=0.2)
"""For correctness; its heads are 16 wide, the least that compiled FlexAttention takes."""
RECIPES = {
    "oracle": {},
    "causal": {},
    "prefix": {},
    "hybrid_mask": {},
    "hybrid_mlp": {},
    "hybrid_gq": {},
    "bidirectional": {},
    "scheduler": {},
    "scheduler, window": {"shape": "window"},
    "constant": {"warmup_share": 0.2},
    "ggsm": {"warmup_share": 0.2},
    "ggsm, literal": {"warmup_share": 0.2, "calibration": "none", "row_scale": "kept", "smoothing": 0.0},
    "ggsm, what opening is worth": {"warmup_share": 0.2, "grad_site": "mask"},
}


def recipe(name: str, steps: int = STEPS) -> RecipeConfig:
    """The config of an entry of `RECIPES`, for a run of `steps` steps."""
    values = {"recipe": name.split(",")[0], **RECIPES[name]}
    config: RecipeConfig = TypeAdapter(MaskConfig).validate_python(values)
    return with_total_steps(config, steps)


@dataclass(frozen=True)
class Sizes:
    """How large the checks are."""

    large: Decoder
    """for speed and memory"""
    attention_tokens: int
    """of the attention checks"""
    most_events: int
    """of a modality, in rows for correctness"""
    cut_tokens: int
    """padded tokens of a forward pass that cuts rows for correctness into several batches"""
    users: int
    """rows for the speed of embedding"""
    speed_events: int
    """of a modality, at most, in rows for speed"""
    tokens_per_batch: int
    """padded tokens of a forward pass in embedding"""
    pairs: int
    """of a training step"""
    tokens_per_micro_batch: int
    """padded tokens of a forward pass in training"""
    matrix: int
    """rows and columns of the matrix products that speed is compared with"""
    rounds: int
    """how often each thing is timed"""
    dtype: Dtype
    """for speed and memory"""


@dataclass(frozen=True)
class Setting:
    """What every part is given."""

    device: torch.device
    sizes: Sizes
    small: Path
    """directory of the decoder for correctness"""
    large: Path
    """directory of the decoder for speed"""

    @property
    def cuda(self) -> bool:
        """Whether this is about a GPU."""
        return self.device.type == "cuda"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of speed and memory, for torch."""
        return torch.bfloat16 if self.sizes.dtype == "bfloat16" else torch.float32

    def rows(self, users: int = 13, seed: int = 0) -> pa.Table:
        """Rows of different lengths, for correctness."""
        return user_rows(users, 1, self.sizes.most_events, 5, seed)


def encoder(
    directory: Path,
    mask: RecipeConfig,
    attention: Attention,
    dtype: Dtype,
    device: torch.device,
    max_text_tokens: int = 64,
) -> EncoderBundle:
    """An untrained encoder on a decoder's directory."""
    config = ModelConfig(
        backbone=BackboneConfig(name=str(directory)),
        event_encoder=EventEncoderConfig(name="unused"),
        lora=LoraConfig(r=16, alpha=16),
        pooling="mean",
        tabular_tokens=2,
        max_text_tokens=max_text_tokens,
        attention=attention,
        dtype=dtype,
    )
    features = tuple(f"feature{i}" for i in range(FEATURES))
    modalities = tuple(Modality(name, KEEP) for name in MODALITIES)
    bundle = new_encoder(config, mask, modalities, features, EVENT_WIDTH, "none", 0)
    bundle.encoder.to(device)
    return bundle


def reference(setting: Setting, name: str, step: int = 3) -> EncoderBundle:
    """A float32 encoder on the CPU, as if it had been trained for `step` of 10 steps."""
    bundle = encoder(setting.small, recipe(name), "eager", "float32", CPU)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in bundle.encoder.trainable().values():  # LoRA starts at zero
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    state = bundle.recipe.state_dict()
    if state:
        S = len(bundle.encoder.template.slot_names)
        importance_S = torch.rand(S, generator=generator) * 0.02
        bundle.recipe.load_state_dict({"importance_S": importance_S, "seen_S": torch.ones(S, dtype=torch.bool)})
    bundle = replace(bundle, step=step)
    rows = setting.rows(29, seed=1)
    bundle.encoder.tabular.fit(tabular_matrix(rows))
    states_BD = pooled(bundle, rows)
    bundle.encoder.centre_user_D.copy_(states_BD.mean(dim=0))
    return bundle


def like(
    source: EncoderBundle, setting: Setting, attention: Attention, dtype: Dtype, device: torch.device
) -> EncoderBundle:
    """An encoder that knows the same as `source` does."""
    made = encoder(setting.small, source.mask, attention, dtype, device)
    kept = {n: t for n, t in source.encoder.state_dict().items() if not n.startswith("backbone.") or "lora_" in n}
    made.encoder.load_state_dict(kept, strict=False)
    made.recipe.load_state_dict(copy.deepcopy(source.recipe.state_dict()))
    return replace(made, step=source.step)


@torch.no_grad()
def pooled(bundle: EncoderBundle, rows: pa.Table) -> Tensor:
    """The user tower's states as one padded batch, (B, D) float32, on the encoder's device."""
    bundle.encoder.eval()
    batch = collator(bundle).users(rows).to(bundle.encoder.device)
    return bundle.encoder(batch, bundle.embedding_weight(batch.layout.tokens))


def collator(bundle: EncoderBundle) -> Collator:
    """Builds the encoder's batches."""
    return Collator(bundle.encoder.template, bundle.tokenizer, lookup())


def embedder(bundle: EncoderBundle, tokens_per_batch: int) -> Embedder:
    """The encoder for embedding; it takes the encoder over."""
    return Embedder(LanguageModel(bundle, lookup()), tokens_per_batch)


def trainer(
    bundle: EncoderBundle,
    rows: pa.Table,
    *,
    steps: int,
    tokens_per_micro_batch: int = 10**6,
    graph_tokens: int = 10**9,
) -> Trainer:
    """A trainer without clipping, whose loss masks no false negatives: rounding would decide which."""
    config = TrainingConfig(
        steps=steps,
        batch_size=len(rows),
        margin=2.0,
        tokens_per_micro_batch=tokens_per_micro_batch,
        graph_tokens=graph_tokens,
        optimizer=OptimizerConfig(clip_norm=1e9),
    )
    return Trainer(Contrastive(bundle, collator(bundle), config, ALONE, 0, head=rows), config, ALONE)


def least_cosine(a_BD: np.ndarray, b_BD: np.ndarray) -> float:
    """Of both sides' vectors, row by row."""
    a_BD, b_BD = a_BD.astype(np.float64), b_BD.astype(np.float64)
    lengths_B = np.linalg.norm(a_BD, axis=1) * np.linalg.norm(b_BD, axis=1)
    return float(((a_BD * b_BD).sum(axis=1) / lengths_B).min())

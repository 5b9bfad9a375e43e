"""Fits a soft prompt to a label, while the encoder stays as it is. Q-Anchor, 3.2.3 and C.3.

    L_pt = -log softmax_k (u . p_k / tau) [y]

u is the published vector of a row whose instruction is the prompt, p_k the prototype of class k, of length 1.

Legend: B rows, P vectors, K = 2 classes, D width of the backbone, W width of user vectors.
"""

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from ray_ggsm.config import Config, InputError
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.model.planning import batches_by_length

NAME = "prompt:"
"""Query of the rows while a prompt is fitted."""


class TuningConfig(Config):
    """How a soft prompt is fitted."""

    vectors: int = Field(6, ge=1)
    """P."""
    steps: int = Field(500, ge=1)
    batch_size: int = Field(64, ge=2)
    """Rows in a step, half of them with the label."""
    learning_rate: float = Field(5e-3, gt=0)
    """Of Adam."""
    temperature: float = Field(0.07, gt=0)
    """tau."""
    rows: int = Field(50_000, ge=2)
    """Training rows that batches are drawn from: the first ones. They are in memory."""


class PromptTuner:
    """A prompt and its prototypes, and the frozen encoder that they are fitted on."""

    def __init__(self, encoder: LanguageModel, config: TuningConfig, seed: int) -> None:
        """Start with random vectors at the size of token embeddings, and with random prototypes."""
        self.encoder, self.config = encoder, config
        generator = torch.Generator().manual_seed(seed)
        D, W = encoder.model.width, encoder.vector_width
        size = encoder.model.input_scale.item()
        self.vector_PD = nn.Parameter((torch.randn(config.vectors, D, generator=generator) * size).to(encoder.device))
        self.prototype_KW = nn.Parameter(torch.randn(2, W, generator=generator).to(encoder.device))
        encoder.use_prompts({NAME: self.vector_PD})
        for parameter in encoder.model.parameters():
            parameter.requires_grad_(False)
        self.optimizer = torch.optim.Adam([self.vector_PD, self.prototype_KW], lr=config.learning_rate)

    def step(self, rows: pa.Table, positive_B: np.ndarray) -> float:
        """One step of Adam; returns the loss."""
        loss = self.loss(rows, positive_B)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def loss(self, rows: pa.Table, positive_B: np.ndarray) -> Tensor:
        """L_pt of some rows; ln 2 if all prototypes are equal."""
        sequences = self.encoder.user_sequences(_prompted(rows))
        batch = sequences.batch(np.arange(len(rows))).to(self.encoder.device)
        user_BW = self.encoder.vectors(batch, "user")
        logits_BK = user_BW @ normalize(self.prototype_KW, dim=1).T / self.config.temperature
        return cross_entropy(logits_BK, torch.from_numpy(positive_B.astype(np.int64)).to(user_BW.device))

    @torch.inference_mode()
    def scores(self, rows: pa.Table, tokens_per_batch: int) -> np.ndarray:
        """u . (p_1 - p_0), (B,) float64: larger for rows that look like those with the label."""
        sequences, prototype_KW = self.encoder.user_sequences(_prompted(rows)), normalize(self.prototype_KW, dim=1)
        score_B = np.empty(len(rows))
        for index in batches_by_length(sequences.length_B, tokens_per_batch):
            user_NW = self.encoder.vectors(sequences.batch(index).to(self.encoder.device), "user")
            score_B[index] = (user_NW @ (prototype_KW[1] - prototype_KW[0])).double().cpu().numpy()
        return score_B


def balanced(positive_N: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Positions of the rows of one batch after the other: half with the label, half without, each shuffled anew when
    all have come. NaN rows never come.

    Raises:
        InputError: one of the two has no row.
    """
    rng = np.random.default_rng(seed)
    sides = [np.flatnonzero(positive_N == value) for value in (1, 0)]
    if not all(len(side) for side in sides):
        raise InputError(f"label: {len(sides[0])} training rows have it and {len(sides[1])} do not; both are needed")
    streams = [_endless(side, rng) for side in sides]
    sizes = batch_size // 2, math.ceil(batch_size / 2)
    while True:
        yield np.array([next(stream) for stream, size in zip(streams, sizes, strict=True) for _ in range(size)])


def _endless(items: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(items).tolist()


def _prompted(rows: pa.Table) -> pa.Table:
    others = rows.drop_columns(["query"]) if "query" in rows.column_names else rows
    return others.append_column("query", pa.array([NAME] * len(rows), pa.string()))

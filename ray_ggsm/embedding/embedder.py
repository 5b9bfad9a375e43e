"""User rows -> vectors, with a saved encoder; no Ray here.

Legend: B rows, L tokens, D width.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from ray_ggsm.config import Config
from ray_ggsm.model.batch import Collator, Lookup, history_events
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.saved import Trained


class EmbeddingConfig(Config):
    """Which rows are embedded, and how."""

    checkpoint: Literal["final", "untrained"] = "final"
    """The trained encoder, or the same encoder at step 0."""
    stages: tuple[str, ...] = ("probe", "test")
    """Stages of prepared rows to embed."""
    rows_per_batch: int = Field(1024, ge=1)
    """Rows that an actor takes at once, and orders by length."""
    tokens_per_batch: int = Field(16_384, ge=1)
    """Padded tokens in one forward pass."""


class Embedder:
    """Embeds validated user rows."""

    def __init__(self, trained: Trained, lookup: Lookup, tokens_per_batch: int) -> None:
        self.trained, self.tokens_per_batch = trained, tokens_per_batch
        self.encoder = trained.encoder.eval()
        self.collator = Collator(self.encoder.template, trained.tokenizer, lookup)

    @torch.inference_mode()
    def __call__(self, rows: pa.Table) -> np.ndarray:
        """(B, D) float32, centred and L2-normalised, in the rows' order."""
        template = self.encoder.template
        length_B = history_events(rows, template).count_MB.sum(axis=0) + len(template.tags) + template.tabular_tokens
        vector_BD = np.empty((len(rows), self.encoder.width), dtype=np.float32)
        for chosen in batches_by_length(length_B, self.tokens_per_batch):
            batch = self.collator.users(rows.take(pa.array(chosen))).to(self.encoder.device)
            pooled_BD = self.encoder(batch, self.trained.embedding_weight(batch.layout.tokens))
            vector_BD[chosen] = self.encoder.vectors(pooled_BD, "user").cpu().numpy()
        return vector_BD

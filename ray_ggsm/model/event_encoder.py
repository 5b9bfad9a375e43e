"""The frozen text encoder of single events: each distinct event text becomes one vector, once.

Legend: N texts, L word pieces, H width of the event encoder.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from ray_ggsm.config import digest
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.source import PretrainedConfig, load_model, load_tokenizer, weights_digest


class EventEncoderConfig(PretrainedConfig):
    """Which text encoder, and how it makes one vector of a text."""

    pooling: Literal["cls", "mean"] = "mean"
    """First position, or the mean over the text's positions; take what the encoder was trained with."""
    max_tokens: int = Field(64, ge=4)
    """Longest event text, in word pieces; longer ones are cut."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of weights and matrix products."""


class EventEncoder:
    """Texts -> vectors."""

    def __init__(self, config: EventEncoderConfig, device: torch.device) -> None:
        """Load the encoder; errors as `ray_ggsm.model.source.load_model`."""
        self.config, self.device = config, device
        dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
        self.model = load_model(config, dtype).eval().requires_grad_(False).to(device)
        self.tokenizer = load_tokenizer(config)
        self.digest = digest(config.model_dump(exclude={"name", "revision"}), weights_digest(self.model))
        """identifies the vectors this encoder makes"""

    @property
    def width(self) -> int:
        """H."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], tokens_per_batch: int = 8192) -> np.ndarray:
        """(N, H) float16, in the order of `texts`; texts of like length share a batch."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.config.max_tokens)["input_ids"]
        vectors_NH = np.empty((len(ids), self.width), dtype=np.float16)
        for chosen in batches_by_length(np.array([len(i) for i in ids]), tokens_per_batch):
            vectors_NH[chosen] = self._encode_batch([ids[i] for i in chosen])
        return vectors_NH

    def _encode_batch(self, ids: list[list[int]]) -> np.ndarray:
        padded = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.device)
        hidden_NLH = self.model(**padded).last_hidden_state.float()
        if self.config.pooling == "cls":
            vectors_NH = hidden_NLH[:, 0]
        else:
            mask_NL1 = padded["attention_mask"][:, :, None]
            vectors_NH = (hidden_NLH * mask_NL1).sum(dim=1) / mask_NL1.sum(dim=1)
        result: np.ndarray = vectors_NH.cpu().numpy().astype(np.float16)
        return result

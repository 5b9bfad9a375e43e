"""The frozen text encoder of single events: one vector per event text.

Legend: N texts, L word pieces, H width of the event encoder.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ray_ggsm.config import InputError, digest
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.source import load_model, load_tokenizer, weights_digest


class EventEncoder:
    """A loaded text encoder on one device."""

    def __init__(self, config: EventEncoderConfig, device: torch.device, packed: str | None = None) -> None:
        """Load the encoder; `packed` and errors as in `ray_ggsm.model.source.load_model`."""
        self.config, self.device = config, device
        self.model = load_model(config, config.torch_dtype, packed).eval().requires_grad_(False).to(device)
        self.tokenizer = load_tokenizer(config, packed)
        self.digest = digest(config.model_dump(exclude={"name", "revision"}), weights_digest(self.model))
        """Identifies the vectors that this encoder makes."""
        self.check_length(config.max_tokens)

    def check_length(self, longest: int) -> None:
        """Refuse texts of more word pieces than the model has positions for.

        Raises:
            InputError: `longest` is more.
        """
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and longest > most:
            raise InputError(
                f"model.event_encoder: '{self.config.name}' reads at most {most} word pieces, and {longest} are asked "
                "for; lower model.event_encoder.max_tokens, model.told_tokens of found, or difficulty.max_word_pieces"
            )

    @property
    def width(self) -> int:
        """H."""
        return int(self.model.config.hidden_size)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], tokens_per_batch: int = 8192, longest: int | None = None) -> np.ndarray:
        """Vectors of the texts, (N, H) float16, in their order.

        Args:
            texts: the texts.
            tokens_per_batch: padded word pieces in one forward pass.
            longest: word pieces of a text that are read; None: as many as of an event (`max_tokens`).
        """
        ids = self.tokenizer(list(texts), truncation=True, max_length=longest or self.config.max_tokens)["input_ids"]
        vectors_NH = np.empty((len(ids), self.width), dtype=np.float16)
        for chosen in batches_by_length(np.array([len(i) for i in ids]), tokens_per_batch):
            vectors_NH[chosen] = self._encode_batch([ids[i] for i in chosen])
        return vectors_NH

    def is_longer(self, texts: Sequence[str], longest: int) -> np.ndarray:
        """Whether texts have more word pieces than so many, bool (N,)."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=longest + 1)["input_ids"]
        return np.array([len(each) > longest for each in ids], dtype=bool)

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

"""A general text embedding model, which nobody trains, on rows that are told as text (`kind: text`).

sentence-transformers loads the model and knows its pooling and its further layers. Rows become text in
`ray_ggsm.encoders.rendered`; the library cuts what the model cannot read. The weights are not saved with the encoder:
its description holds their digest.

Legend: B rows, L tokens of the longest row, W width of the model's vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.config import InputError
from ray_ggsm.encoders.rendered import row_texts
from ray_ggsm.encoders.small_model import SmallModel
from ray_ggsm.model.contract import Sequences
from ray_ggsm.model.events import read_events
from ray_ggsm.model.kinds import TextConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.source import resolve, weights_digest

AT_ONCE = 256
"""Texts whose tokens are counted together: all are padded to the longest of them."""


@dataclass(frozen=True)
class TextBatch:
    """The tokens of some rows, as the model takes them."""

    inputs: dict[str, object]
    """Among them `input_ids` and `attention_mask`, (B, L)."""

    def to(self, device: torch.device) -> "TextBatch":
        """The same batch on another device."""
        return TextBatch({k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.inputs.items()})

    @property
    def valid_BL(self) -> Tensor:
        """Which tokens are no padding."""
        mask_BL = self.inputs["attention_mask"]
        assert isinstance(mask_BL, Tensor)
        return mask_BL

    @property
    def n_tokens(self) -> int:
        """Tokens, without padding."""
        return int(self.valid_BL.sum())


class TextModel(SmallModel[TextBatch]):
    """The model, and the mean of its vectors."""

    trains = False

    def __init__(self, config: TextConfig) -> None:
        """Load the model.

        Raises:
            InputError: sentence-transformers is not installed, or cannot load it.
        """
        model = load_text_model(config)
        width = model.get_embedding_dimension()
        if width is None:
            raise InputError(f"model '{config.name}': it does not say how wide its vectors are; choose another")
        super().__init__(width)
        self.config, self.model, self.source = config, model, weights_digest(model)

    def saved_weights(self) -> dict[str, Tensor]:
        """As in `SmallModel`: the centre."""
        return {"centre_W": self.centre_W}

    def states(self, batch: TextBatch) -> Tensor:
        """As in `SmallModel`: the model's vectors."""
        vectors: Tensor = self.model(batch.inputs)["sentence_embedding"]
        return vectors.float()


class TextReader:
    """User rows -> tokens of their texts."""

    def __init__(self, model: TextModel, modalities: Sequence[Modality], feature_names: Sequence[str]) -> None:
        self.model, self.modalities, self.feature_names = model, tuple(modalities), tuple(feature_names)

    def texts(self, rows: pa.Table) -> list[str]:
        """Texts of rows."""
        return row_texts(rows, self.modalities, self.feature_names, self.model.config.newest)

    def counts(self, rows: pa.Table) -> np.ndarray:
        """As in `Reader`; the last ones of a row may be cut."""
        return read_events(rows, self.modalities, self.model.config.newest)

    def sequences(self, rows: pa.Table) -> Sequences[TextBatch]:
        """As in `Reader`."""
        texts = self.texts(rows)
        parts = [self._batch(texts[n : n + AT_ONCE]) for n in range(0, len(texts), AT_ONCE)]
        length_B = np.concatenate([part.valid_BL.sum(dim=1).numpy() for part in parts])
        return Sequences(length_B, lambda index_N: self._batch([texts[n] for n in index_N]))

    def batch(self, rows: pa.Table) -> TextBatch:
        """As in `Reader`."""
        return self._batch(self.texts(rows))

    def _batch(self, texts: list[str]) -> TextBatch:
        return TextBatch(dict(self.model.model.preprocess(texts, prompt=self.model.config.prompt or None)))


def load_text_model(config: TextConfig) -> Any:
    """The model of sentence-transformers, on the CPU, which cuts texts as the config says.

    Raises:
        InputError: sentence-transformers is not installed, or cannot load it.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError(
            "model.kind: text: sentence-transformers is not installed; pip install 'ray-ggsm[text]'"
        ) from None
    try:
        model = SentenceTransformer(
            resolve(config.name), revision=config.revision, device="cpu", trust_remote_code=False,
            model_kwargs={"dtype": config.dtype, "use_safetensors": True},
        )  # fmt: skip
    except InputError:
        raise
    except Exception as error:  # of many libraries
        raise InputError(f"model '{config.name}' cannot be loaded: {' '.join(str(error).split())[:400]}") from error
    if config.max_tokens is not None:
        model.max_seq_length = config.max_tokens
    return model.eval().requires_grad_(False)

"""What embedding needs of an encoder, whatever its kind (`ray_ggsm.encoders`).

Legend: B rows, N rows of a batch, W width of the published vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import torch

Tower = Literal["user", "answer"]
"""Whether vectors are those of users, or of texts that users are compared with."""


class EncoderBatch(Protocol):
    """Rows that go through an encoder together."""

    @property
    def n_tokens(self) -> int:
        """Number of real tokens (or events), without padding."""

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""


AnyBatch = TypeVar("AnyBatch", bound=EncoderBatch)


@dataclass(frozen=True)
class Sequences(Generic[AnyBatch]):
    """Rows whose lengths are known and whose batches are built on demand."""

    length_B: np.ndarray
    """int64: tokens per row."""
    batch: Callable[[np.ndarray], AnyBatch]
    """Positions of rows (N,) -> their batch, in that order."""
    kind_B: np.ndarray | None = None
    """int64: rows of different kinds never share a batch; None: all are of one kind."""


class Encoder(Protocol):
    """A trained encoder that makes vectors and changes no more."""

    @property
    def vector_width(self) -> int:
        """W."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    def user_sequences(self, rows: pa.Table) -> Sequences[Any]:
        """User rows (`ray_ggsm.data.schema`) as its input."""

    def question_sequences(self, rows: pa.Table, queries: Sequence[str]) -> Sequences[Any] | None:
        """User rows that are all asked the same Q things, whose `vectors` are (N, Q, W); None where one pass cannot do
        that."""

    def text_sequences(self, texts: Sequence[str]) -> Sequences[Any]:
        """Texts that users are compared with.

        Raises:
            InputError: this encoder has learned nothing about texts.
        """

    def events_read(self, rows: pa.Table) -> np.ndarray:
        """Events of each row that the encoder reads, int32 (B,)."""

    def vectors(self, batch: Any, tower: Tower) -> torch.Tensor:
        """Published vectors, (N, W) float32."""

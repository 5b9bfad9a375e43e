"""Training that remembers an older encoder: a linear head reads its vectors from the new ones.

    L = weight * mean over rows of 1 - cos(A v + a, v_old)

v is a row's new vector as it is published, v_old the older encoder's of the same row. Both are asked what the row asks
(`query`): nothing, but for query-answer pairs (`training.questions`). So the new vectors are pulled to
say what a linear map reads as the older ones, for the map that publishing fits (`publishing.compatible`). The head is
not saved with the encoder. (Training against old vectors: Shen et al., Backward-Compatible Training, 2020,
there with the old classifier.)

Legend: b rows of this worker, B rows of the global batch, W width of the new vectors, V of the older ones.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import pyarrow as pa
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ray_ggsm import storage
from ray_ggsm.config import Config, Runtime


class OldSpaceConfig(Config):
    """An older encoder whose vectors are to be read from the new ones."""

    encoder: Runtime[Annotated[str, AfterValidator(storage.absolute)]]
    """Directory of the older encoder, of the same rows and event encoder; results depend on what it is, not on
    where."""
    mask: Literal["trained", "inference"] = "trained"
    """The mask under which its vectors were published (`embedding.mask`). They are those without an instruction, and
    for query-answer pairs (`training.questions`) those under the query of the pair."""
    weight: float = Field(1.0, gt=0)
    """Weight of the loss."""


class OldSpace(nn.Linear):
    """The head, (B, W) -> (B, V), and the older encoder."""

    def __init__(self, W: int, V: int, weight: float, seed: int, vectors: Callable[[pa.Table], Tensor]) -> None:
        """Take the older encoder.

        Args:
            W: width of the new vectors.
            V: width of the older ones.
            weight: weight of the loss.
            seed: seed of the head.
            vectors: user rows -> the older encoder's vectors, (b, V) float32.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(W, V)
        self.loss_weight, self.vectors = weight, vectors

    def loss(self, vector_BW: Tensor, old_BV: Tensor) -> Tensor:
        """The weighted loss, a scalar."""
        read_BV = self(vector_BW)
        return self.loss_weight * (1 - cosine_similarity(read_BV, old_BV, dim=1)).mean()

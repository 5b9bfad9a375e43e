"""The hand-crafted features as vectors (`kind: features`): an encoder like any other, of which nothing is trained.

A vector holds the z-scores of the features' signed logarithms beside a constant, normalised. The constant keeps the
z-scores' sizes readable, which normalisation alone would lose.

Legend: B rows, F features.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.encoders.small_model import Reader, SmallModel
from ray_ggsm.model.adapters import FeatureScores
from ray_ggsm.model.batch import tabular_matrix
from ray_ggsm.model.contract import Sequences

CONSTANT = 3.0
"""Size of the constant, in lengths of a vector whose z-scores are all 1."""


@dataclass(frozen=True)
class FeatureBatch:
    """The features of some rows."""

    tabular_BF: Tensor
    """float32: as they are in the rows."""

    def to(self, device: torch.device) -> "FeatureBatch":
        """The same batch on another device."""
        return FeatureBatch(self.tabular_BF.to(device, non_blocking=True))

    @property
    def n_tokens(self) -> int:
        """Rows: each is one token."""
        return len(self.tabular_BF)


class FeatureReader:
    """User rows -> their features."""

    def counts(self, rows: pa.Table) -> np.ndarray:
        """As in `Reader`: no event is read."""
        return np.zeros(len(rows), dtype=np.int64)

    def sequences(self, rows: pa.Table) -> Sequences[FeatureBatch]:
        """As in `Reader`."""
        ones_B = np.ones(len(rows), dtype=np.int64)
        return Sequences(ones_B, lambda index_N: self.batch(rows.take(pa.array(index_N))))

    def batch(self, rows: pa.Table) -> FeatureBatch:
        """As in `Reader`."""
        return FeatureBatch(tabular_matrix(rows))


class Features(SmallModel[FeatureBatch]):
    """The statistics of the features."""

    trains = False

    def __init__(self, features: int) -> None:
        super().__init__(features + 1)
        self.scores = FeatureScores(features)

    def prepare(self, reader: Reader[FeatureBatch], head: pa.Table, future_days: int | None, seed: int) -> None:
        """As in `SmallModel`: mean and scale of each feature."""
        self.scores.fit(reader.batch(head).tabular_BF.to(self.centre_W.device))

    def states(self, batch: FeatureBatch) -> Tensor:
        """As in `SmallModel`: z-scores, and the constant."""
        z_BF = self.scores.z_scores(batch.tabular_BF)
        return torch.cat([z_BF, z_BF.new_full((len(z_BF), 1), CONSTANT * z_BF.shape[1] ** 0.5)], dim=1)

    def vectors(self, batch: FeatureBatch) -> Tensor:
        """As in `SmallModel`; not centred, as z-scores are."""
        return torch.nn.functional.normalize(self.states(batch), dim=1)

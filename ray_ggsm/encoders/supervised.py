"""A small network trained end to end on labels (`kind: supervised`): what frozen vectors can be held against.

A GRU reads the stream of events, a network of one hidden layer the z-scores of the features. Both together become the
vector, and one linear head per label says how likely it is:

    L = mean over labels of the mean binary cross-entropy over the rows that have the label

Legend: B rows, b rows of this worker, F features, Q labels, C width of the GRU's state, W width of the vector.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ray_ggsm.config import InputError
from ray_ggsm.encoders.stream import StreamBatch, StreamInput, StreamModel, StreamReader, TrainingBatch, last
from ray_ggsm.model.adapters import FeatureScores
from ray_ggsm.model.kinds import SupervisedConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.labelled import PREFIX
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.workers import Workers, draws_of_rows


@dataclass(frozen=True)
class LabelledBatch(TrainingBatch):
    """Rows with their labels."""

    label_BQ: Tensor
    """float32: 1, 0, or NaN where a row has no such label."""


class Supervised(StreamModel):
    """Both networks, what joins them, and a question per label."""

    def __init__(
        self, config: SupervisedConfig, modalities: tuple[Modality, ...], event_width: int, features: int
    ) -> None:
        assert config.labels is not None, "names of labels are filled in"
        super().__init__(config.vector)
        self.config = config
        self.input = StreamInput(config, modalities, event_width)
        self.gru = nn.GRU(config.width, config.state, batch_first=True)
        self.scores = FeatureScores(features)
        self.features = nn.Sequential(nn.Linear(features, config.hidden), nn.GELU())
        both = config.state + config.hidden
        self.norm = nn.LayerNorm(both)
        self.join = nn.Sequential(nn.Linear(both, config.vector), nn.LayerNorm(config.vector))
        self.questions = nn.Linear(config.vector, len(config.labels))

    def prepare(self, reader: StreamReader, head: pa.Table, future_days: int | None, seed: int) -> None:
        """As in `SmallModel`: also mean and scale of each feature."""
        super().prepare(reader, head, future_days, seed)
        self.scores.fit(reader.batch(head).tabular_BF.to(self.centre_W.device))

    def states(self, batch: StreamBatch) -> Tensor:
        """As in `SmallModel`."""
        return self._joined(batch, (1.0, 1.0))

    def training_batch(self, reader: StreamReader, rows: pa.Table, seed: int) -> LabelledBatch:
        """As in `SmallModel`."""
        return LabelledBatch(reader.batch(rows), labels_of(rows, self.config.labels or ()))

    def loss(self, batch: LabelledBatch, workers: Workers, seed: int) -> tuple[Tensor, Metrics]:
        """As in `SmallModel`: each worker has its rows' part of the means."""
        logits_bQ = self.questions(self._joined(batch.history, self._dropout(batch.history, workers, seed)))
        there_bQ = batch.label_BQ.isfinite()
        answer_bQ = batch.label_BQ.nan_to_num()
        each_bQ = nn.functional.binary_cross_entropy_with_logits(logits_bQ, answer_bQ, reduction="none") * there_bQ
        count_Q = workers.reduce(there_bQ.sum(dim=0).to(each_bQ.dtype))
        asked = (count_Q > 0).sum().clamp(min=1)
        loss = (each_bQ.sum(dim=0) / count_Q.clamp(min=1)).sum() / asked
        return loss, {"loss": workers.reduce(loss.detach().clone()).item()}

    def _joined(self, batch: StreamBatch, kept: tuple[Tensor | float, Tensor | float]) -> Tensor:
        """Vectors before they are centred, (B, W); `kept` are factors on the features and on what is joined."""
        state_BC = last(self.gru(self.input(batch))[0], batch.length_B)
        features_BH = self.features(self.scores.z_scores(batch.tabular_BF) * kept[0])
        joined: Tensor = self.join(self.norm(torch.cat([state_BC, features_BH], dim=1)) * kept[1])
        return joined

    def _dropout(self, batch: StreamBatch, workers: Workers, seed: int) -> tuple[Tensor | float, Tensor | float]:
        """Factors of dropout, which depend on a row's place in the global batch, not on the number of workers."""
        p, (b, F) = self.config.dropout, batch.tabular_BF.shape
        if not self.training:
            return 1.0, 1.0
        share_bX = draws_of_rows(b, F + len(self.norm.weight), workers, seed, batch.tabular_BF.device)
        kept_bX = (share_bX >= p).float() / (1 - p)
        return kept_bX[:, :F], kept_bX[:, F:]


def labels_of(rows: pa.Table, labels: tuple[str, ...]) -> Tensor:
    """The labels that stand beside rows (`ray_ggsm.training.labelled`), float32 (B, Q), NaN where a row has none."""
    missing = [name for name in labels if PREFIX + name not in rows.column_names]
    if missing:
        raise InputError(f"training rows: the label '{missing[0]}' is not beside them; prepare them with its config")
    columns = [rows[PREFIX + name].cast(pa.float32()).to_numpy() for name in labels]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))

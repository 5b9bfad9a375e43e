"""Maps event vectors, numbers and tabular features into the backbone's input space. Paper, section 4.

Legend: E events, B rows, H width of the event encoder, D width of the backbone, F tabular features, K tabular tokens or
text fields of events, N number fields of events.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ray_ggsm.model.config import FieldsConfig
from ray_ggsm.numerics import signed_log


class EventAdapter(nn.Sequential):
    """LayerNorm and an MLP of 2 layers, or a single linear layer, for the events of one modality, (E, H) -> (E, D)."""

    def __init__(self, H: int, D: int, layers: int = 2) -> None:
        super().__init__(nn.LayerNorm(H), nn.Linear(H, D))
        if layers == 2:  # after the first layer, so that it begins as the only one would
            self.extend([nn.GELU(), nn.Linear(D, D)])


class NumberEmbedding(nn.Module):
    """Embeds an event's age (days before as_of) and its amount, (E,) and (E,) -> (E, D).

    The age enters on a linear and a logarithmic scale and as phases of periods, so that rhythm survives. A missing
    amount (NaN) has its own indicator.
    """

    def __init__(self, D: int, periods_days: Sequence[float]) -> None:
        super().__init__()
        self.periods_days = periods_days
        self.mlp = nn.Sequential(nn.Linear(4 + 2 * len(periods_days), 64), nn.GELU(), nn.Linear(64, D))

    def forward(self, age_E: Tensor, amount_E: Tensor) -> Tensor:
        """One embedding of both numbers, (E, D)."""
        missing_E = amount_E.isnan()
        phases = [2 * math.pi * age_E / days for days in self.periods_days]
        features = [
            signed_log(age_E, torch) / math.log(91),
            age_E / 90,
            *(wave for phase_E in phases for wave in (phase_E.sin(), phase_E.cos())),
            signed_log(amount_E.nan_to_num(), torch) / 4,
            missing_E.float(),
        ]
        embedded: Tensor = self.mlp(torch.stack(features, dim=1))
        return embedded


class FieldEmbedding(nn.Module):
    """Embeds the fields of events, (E, 2K) and (E, N) -> (E, D).

    A text has two of the rows of one hash table, so that texts which share one differ in the other (Svenstrup et al.,
    Hash embeddings, 2017). Numbers enter as z-scores of their signed logarithms, with an indicator of missing ones.
    """

    mean_N: Tensor
    scale_N: Tensor

    def __init__(self, K: int, N: int, D: int, config: FieldsConfig) -> None:
        super().__init__()
        self.texts = nn.EmbeddingBag(config.buckets + 1, config.width, mode="sum", padding_idx=0) if K else None
        self.numbers = nn.Sequential(nn.Linear(2 * N, 64), nn.GELU(), nn.Linear(64, D)) if N else None
        if self.texts is not None:
            # so much that a text weighs about as much as the age of an event
            nn.init.normal_(self.texts.weight, std=0.25)
            self.projection = nn.Linear(config.width, D, bias=False)
        self.register_buffer("mean_N", torch.zeros(N))
        self.register_buffer("scale_N", torch.ones(N))

    def fit(self, number_EN: Tensor) -> None:
        """Set mean and standard deviation to those of events of training rows, without missing numbers."""
        for n, column_E in enumerate(signed_log(number_EN.double(), torch).T):
            there_E = column_E[~column_E.isnan()]
            if len(there_E):
                deviation = there_E.std(correction=0)
                self.mean_N[n] = there_E.mean()
                self.scale_N[n] = deviation if deviation > 1e-6 else 1.0

    def forward(self, bucket_EK: Tensor, number_EN: Tensor) -> Tensor:
        """One embedding of all fields, (E, D); `bucket_EK` holds two buckets per text field, -1 without a value."""
        embedded: list[Tensor] = []
        if self.texts is not None:
            rows = self.texts.num_embeddings - 1
            embedded.append(self.projection(self.texts(torch.where(bucket_EK < 0, 0, bucket_EK % rows + 1))))
        if self.numbers is not None:
            z_EN = ((signed_log(number_EN, torch) - self.mean_N) / self.scale_N).clamp(-5, 5)
            embedded.append(self.numbers(torch.cat([z_EN.nan_to_num(0.0), z_EN.isnan().float()], dim=1)))
        return torch.stack([part.float() for part in embedded]).sum(dim=0)


class FeatureScores(nn.Module):
    """Z-scores of the tabular features' signed logarithms over training rows, (B, F) -> (B, F), cut to [-5, 5]."""

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, F: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(F))
        self.register_buffer("scale_F", torch.ones(F))

    def fit(self, tabular_BF: Tensor) -> None:
        """Set mean and standard deviation to those of training rows; constant features keep scale 1."""
        log_BF = signed_log(tabular_BF.double(), torch)
        deviation_F = log_BF.std(dim=0, correction=0)
        self.mean_F.copy_(log_BF.mean(dim=0))
        self.scale_F.copy_(torch.where(deviation_F > 1e-6, deviation_F, 1.0))

    def z_scores(self, tabular_BF: Tensor) -> Tensor:
        """The z-scores, (B, F)."""
        return ((signed_log(tabular_BF, torch) - self.mean_F) / self.scale_F).clamp(-5, 5)


class TabularAdapter(FeatureScores):
    """Turns tabular features into K vectors, (B, F) -> (B, K, D): signed log, z-score over training rows, small MLP.

    `residual` maps the same z-scores linearly to (B, D); they are added to the pooled state, past the backbone.
    """

    def __init__(self, F: int, D: int, tokens: int, dropout: float, residual: bool) -> None:
        super().__init__(F)
        self.tokens = tokens
        self.residual = nn.Sequential(nn.Dropout(dropout), nn.Linear(F, D, bias=False)) if residual else None
        self.mlp = nn.Sequential(nn.Dropout(dropout), nn.Linear(F, D), nn.GELU(), nn.Linear(D, tokens * D))

    def forward(self, tabular_BF: Tensor) -> Tensor:
        """K vectors per row, (B, K, D)."""
        vectors: Tensor = self.mlp(self.z_scores(tabular_BF)).unflatten(1, (self.tokens, -1))
        return vectors

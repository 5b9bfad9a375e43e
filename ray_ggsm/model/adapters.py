"""Event vectors, numbers and tabular features -> vectors in the backbone's input space. Paper, section 4.

Legend: E events, B rows, H width of the event encoder, D width of the backbone, F tabular features.
"""

import math

import torch
from torch import Tensor, nn


def signed_log(value: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): tames heavy tails and keeps the sign."""
    return value.sign() * value.abs().log1p()


class EventAdapter(nn.Sequential):
    """LayerNorm and a 2-layer MLP, (E, H) -> (E, D); one per modality."""

    def __init__(self, H: int, D: int) -> None:
        super().__init__(nn.LayerNorm(H), nn.Linear(H, D), nn.GELU(), nn.Linear(D, D))


class NumberEmbedding(nn.Module):
    """Age before as_of (days) and amount of an event, (E,) and (E,) -> (E, D).

    The age enters on a logarithmic scale and as phases of the day and the week, so that rhythm survives; a missing
    amount (NaN) has an indicator of its own.
    """

    FEATURES = 8

    def __init__(self, D: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(self.FEATURES, 64), nn.GELU(), nn.Linear(64, D))

    def forward(self, age_E: Tensor, amount_E: Tensor) -> Tensor:
        """Sum of both embeddings, (E, D)."""
        missing_E = amount_E.isnan()
        day_E, week_E = 2 * math.pi * age_E, 2 * math.pi * age_E / 7
        features = [
            signed_log(age_E) / math.log(91),
            age_E / 90,
            day_E.sin(),
            day_E.cos(),
            week_E.sin(),
            week_E.cos(),
            signed_log(amount_E.nan_to_num()) / 4,
            missing_E.float(),
        ]
        embedded: Tensor = self.mlp(torch.stack(features, dim=1))
        return embedded


class TabularAdapter(nn.Module):
    """Tabular features -> a few vectors: signed log, z-score over the training rows, small MLP. (B, F) -> (B, K, D).

    `residual` is a linear map of the same z-scores for the pooled state, past the backbone.
    """

    mean_F: Tensor
    scale_F: Tensor

    def __init__(self, F: int, D: int, tokens: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.tokens = tokens
        self.residual = nn.Sequential(nn.Dropout(dropout), nn.Linear(F, D, bias=False)) if residual else None
        self.mlp = nn.Sequential(nn.Dropout(dropout), nn.Linear(F, D), nn.GELU(), nn.Linear(D, tokens * D))
        self.register_buffer("mean_F", torch.zeros(F))
        self.register_buffer("scale_F", torch.ones(F))

    def fit(self, tabular_BF: Tensor) -> None:
        """Take mean and standard deviation from training rows; constant features keep scale 1."""
        log_BF = signed_log(tabular_BF.double())
        deviation_F = log_BF.std(dim=0, correction=0)
        self.mean_F.copy_(log_BF.mean(dim=0))
        self.scale_F.copy_(torch.where(deviation_F > 1e-6, deviation_F, 1.0))

    def forward(self, tabular_BF: Tensor) -> Tensor:
        """(B, K, D), K the number of tabular tokens."""
        vectors: Tensor = self.mlp(self.z_scores(tabular_BF)).unflatten(1, (self.tokens, -1))
        return vectors

    def z_scores(self, tabular_BF: Tensor) -> Tensor:
        """(B, F), within [-5, 5]."""
        return ((signed_log(tabular_BF) - self.mean_F) / self.scale_F).clamp(-5, 5)

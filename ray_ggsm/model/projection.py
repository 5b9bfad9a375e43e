"""A small network behind both towers: what it gives is compared, centred and published (Q-Anchor).

Legend: B rows, D width of the backbone, P width of the projection.
"""

import torch
from torch import Tensor, nn

from ray_ggsm.model.config import ProjectionConfig


class Projection(nn.Module):
    """An MLP with one hidden layer, (B, D) -> (B, P), in float32."""

    def __init__(self, D: int, config: ProjectionConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(D, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.width))

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Projected states, (B, P)."""
        with torch.autocast(pooled_BD.device.type, enabled=False):
            projected: Tensor = self.mlp(pooled_BD.float())
            return projected

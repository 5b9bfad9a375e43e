"""A small MLP computes from each query's state how far it sees into the future. Paper, Appendix A.4, hybrid (b).

The paper leaves the MLP's form open. Here every layer has one: w_ij = sigmoid(MLP(h_i)[bucket(j - i)]) for keys j of
the user segment, and 0 for later keys. Distances up to the same power of two share a bucket, so the MLP's r hidden
units are a low-rank form of a weight for every (i, j - i). Training starts nearly causal, as the backbone was
pretrained.

Legend: B rows, L tokens, D width, K buckets of distance, i query position, j key position.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ray_ggsm.masks.recipe import Recipe, RecipeConfig
from ray_ggsm.masks.tokens import Tokens

START = -3.0
"""Logit of every weight before training: sigmoid(-3) = 0.05."""


class HybridMLPConfig(RecipeConfig):
    """Future keys of the user segment have a learned weight, in training and at inference."""

    recipe: Literal["hybrid_mlp"]
    rank: int = Field(8, ge=1)
    """Hidden units of each layer's MLP."""
    buckets: int = Field(10, ge=1)
    """Number of distance buckets: 1, 2, 3-4, 5-8, ...; all larger distances share the last one."""

    def build(self) -> "HybridMLP":
        """A mask with MLPs of this size."""
        return HybridMLP(self)


class HybridMLP(Recipe):
    """The same learned mask in training and at inference; its weights are trained and saved with the encoder."""

    def __init__(self, config: HybridMLPConfig) -> None:
        self.config = config

    def learned_mask(self, width: int, layers: int) -> "LearnedMask":
        """One MLP per layer."""
        return LearnedMask(width, layers, self.config.rank, self.config.buckets)

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L): 1 for the keys that `learned_mask` weighs, 0 for keys that stay closed."""
        return tokens.history_BL.float()

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """The training mask."""
        return tokens.history_BL.float()


class LearnedMask(nn.Module):
    """Weights of future keys, layer by layer, from the states that the layer reads."""

    def __init__(self, width: int, layers: int, rank: int, buckets: int) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(_mlp(width, rank, buckets) for _ in range(layers))
        self.buckets = buckets

    def forward(self, layer: int, states_BLD: Tensor, weight_BL: Tensor) -> Tensor:
        """(B, L, L) in [0, 1], zero where `weight_BL` is; meaningless for past keys."""
        B, L, D = states_BLD.shape
        weight_BLK = torch.sigmoid(self.mlps[layer](nn.functional.rms_norm(states_BLD, (D,))))
        ahead_L = torch.arange(L, device=states_BLD.device).clamp(min=1)
        bucket_L = torch.ceil(torch.log2(ahead_L.float())).long().clamp(max=self.buckets - 1)
        in_bucket_KL = nn.functional.one_hot(bucket_L, self.buckets).T.to(states_BLD.dtype)
        by_distance_BLL = weight_BLK.to(states_BLD.dtype) @ in_bucket_KL
        # rows that are one element too long, read as rows of L: row i moves i to the right, so distance j - i lies at j
        weight_BLL = nn.functional.pad(by_distance_BLL, (0, 1)).view(B, -1)[:, : L * L].view(B, L, L)
        return weight_BLL * weight_BL[:, None, :].to(states_BLD.dtype)


def _mlp(width: int, rank: int, buckets: int) -> nn.Sequential:
    last = nn.Linear(rank, buckets)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, START)
    return nn.Sequential(nn.Linear(width, rank), nn.SiLU(), last)

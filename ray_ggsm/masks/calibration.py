"""From gradient norms to what the sigmoid of GG-SM takes. Paper, eq. 5, which takes the norm itself.

Legend: S slots.
"""

from typing import Literal

import torch
from torch import Tensor

Calibration = Literal["none", "zscore", "rank"]
"""none: the gradient norm as it is (published). zscore: its z-score over the slots seen so far. rank: the normal score
of its rank among them."""


def calibrated(importance_S: Tensor, seen_S: Tensor, method: Calibration) -> Tensor:
    """What the sigmoid takes, (S,) float32; 0 at slots that no gradient has reached.

    Args:
        importance_S: float32, mean per slot of gradient norms, relative norms, or what opening is worth; 0 where
            `seen_S` is false.
        seen_S: bool, slots that a gradient has reached.
        method: how the norms are spread over the slots.
    """
    if method == "none" or not seen_S.any():
        return importance_S
    norms = importance_S[seen_S].double()
    if method == "zscore":
        scores = (norms - norms.mean()) / norms.std(correction=0).clamp(min=torch.finfo(norms.dtype).tiny)
    else:
        scores = torch.special.ndtri((norms.argsort().argsort() + 0.5) / len(norms))
    return torch.zeros_like(importance_S).masked_scatter(seen_S, scores.float())

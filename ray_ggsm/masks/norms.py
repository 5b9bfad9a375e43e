"""Mean gradient norms per group of tokens, over micro-batches and workers.

Legend: B rows, L tokens, D width, G groups.
"""

import torch
from torch import Tensor


def norms(grad_BLD: Tensor) -> Tensor:
    """The norm of the gradient at each token, (B, L) float32."""
    return grad_BLD.detach().float().norm(dim=-1)


def relative_norms(norm_BL: Tensor, importance_BL: Tensor, valid_BL: Tensor) -> Tensor:
    """The norms over their row's scale, (B, L) float32. The scale is the sum of the row's norms over the sum of the
    importances of its tokens' groups.

    A row's gradients carry its length under mean pooling (1 / L), and how hard the row is. Were norms compared between
    rows as they are, groups that only long rows have would look unimportant. For rows that follow norm = scale of the
    row * importance of the group, importances that are the means of relative norms are found in rounds, whichever of
    the groups a row has, as long as rows share some.

    Args:
        norm_BL: gradient norms.
        importance_BL: importance so far of each token's group, at least 0; 1 everywhere compares with the row's mean.
        valid_BL: bool, True for real tokens.
    """
    seen_BL = norm_BL.masked_fill(~valid_BL, 0)
    floor = 1e-6  # a row whose groups had no gradient so far has a scale, too
    scale_B = seen_BL.sum(dim=1) / importance_BL.clamp(min=floor).masked_fill(~valid_BL, 0).sum(dim=1)
    return seen_BL / scale_B.clamp(min=torch.finfo(torch.float32).tiny)[:, None]


def add_norms(sum_count_2G: Tensor, norm_BL: Tensor, group_BL: Tensor, counted_BL: Tensor) -> None:
    """Add to each group the norms of its counted tokens (first row) and their number (second row), in place.

    Args:
        sum_count_2G: float32, on the norms' device.
        norm_BL: float32, one norm per token.
        group_BL: int64 in [0, G), the group of each token; arbitrary where it is not counted.
        counted_BL: bool, False for padding.
    """
    groups, counted = group_BL[counted_BL], norm_BL[counted_BL]
    sum_count_2G[0].index_add_(0, groups, counted)
    sum_count_2G[1].index_add_(0, groups, torch.ones_like(counted))

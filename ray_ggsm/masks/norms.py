"""Mean gradient norms per group of tokens, over micro-batches and workers.

Legend: B rows, L tokens, D width, G groups.
"""

import torch
from torch import Tensor


def add_norms(sum_count_2G: Tensor, grad_BLD: Tensor, group_BL: Tensor, valid_BL: Tensor) -> None:
    """Add to each group the gradient norms of its valid tokens (first row) and their number (second row), in place.

    Args:
        sum_count_2G: float32, on the gradient's device.
        grad_BLD: gradient at one state per token.
        group_BL: int64 in [0, G), the group of each token; arbitrary at padding.
        valid_BL: bool, True for real tokens.
    """
    groups = group_BL[valid_BL]
    norms = grad_BLD.detach().float().norm(dim=-1)[valid_BL]
    sum_count_2G[0].index_add_(0, groups, norms)
    sum_count_2G[1].index_add_(0, groups, torch.ones_like(norms))

"""From visibility to attention bias, with causality and padding; nothing else builds a mask. Paper, eq. 4.

Legend: B rows, L tokens, i query position, j key position.
"""

import torch
from torch import Tensor


def attention_bias(weight: Tensor, valid_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention bias: 0 for past keys (j <= i), log w for future keys, -inf for padding keys.

    A padding query sees itself only, so that no row of the softmax is empty.

    Args:
        weight: visibility of future keys, in [0, 1]; (B, L) when it depends on the key only, else (B, L, L) as (i, j).
        valid_BL: bool, True for real tokens.
        dtype: floating type of the attention logits.

    Returns:
        (B, 1, L, L) of `dtype`, to broadcast over heads.

    Raises:
        ValueError: `weight` has neither shape.
    """
    B, L = valid_BL.shape
    if weight.shape not in ((B, L), (B, L, L)):
        raise ValueError(f"weight: expected {(B, L)} or {(B, L, L)}, found {tuple(weight.shape)}")
    weight_BXL = weight[:, None, :] if weight.dim() == 2 else weight  # X is 1 or L; one logarithm per key is enough
    # the smallest positive number instead of 0 keeps the gradient of a learned weight finite
    log_BXL = torch.log(weight_BXL.clamp(min=torch.finfo(weight.dtype).tiny)).to(dtype)
    log_BXL = log_BXL.masked_fill(weight_BXL <= 0, -torch.inf)
    future_LL = torch.ones(L, L, dtype=torch.bool, device=valid_BL.device).triu(1)
    bias_BLL = torch.where(future_LL, log_BXL, torch.zeros((), dtype=dtype, device=valid_BL.device))
    if torch.compiler.is_exporting() or not valid_BL.all():  # a graph is for all batches, with and without padding
        itself_LL = torch.eye(L, dtype=torch.bool, device=valid_BL.device)
        query_BL1, key_B1L = valid_BL[:, :, None], valid_BL[:, None, :]
        hidden_BLL = (query_BL1 & ~key_B1L) | (~query_BL1 & ~itself_LL)
        bias_BLL = bias_BLL.masked_fill(hidden_BLL, -torch.inf)
    return bias_BLL[:, None]

"""The one place where visibility becomes an attention bias: causality, padding and the logarithm (paper, eq. 4).

Legend: B rows, L tokens, i query position, j key position.
"""

import torch
from torch import Tensor


def attention_bias(weight: Tensor, valid_BL: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention bias: 0 for past keys (j <= i), log w for future keys, -inf for padding keys.

    A padding query sees itself only, so that no row of the softmax is empty.

    Args:
        weight: visibility of future keys in [0, 1]; (B, L) when it depends on the key only, else (B, L, L) as (i, j).
        valid_BL: bool, True for real tokens.
        dtype: floating type of the attention logits.

    Returns:
        (B, 1, L, L) of `dtype`, broadcast over heads.
    """
    B, L = valid_BL.shape
    weight_BLL = weight[:, None, :].expand(B, L, L) if weight.dim() == 2 else weight
    if weight_BLL.shape != (B, L, L):
        raise ValueError(f"weight: expected {(B, L)} or {(B, L, L)}, found {tuple(weight.shape)}")
    future_LL = torch.ones(L, L, dtype=torch.bool, device=valid_BL.device).triu(1)
    open_BLL = future_LL & (weight_BLL > 0)
    # log of 1 where the bias does not depend on the weight keeps the gradient of a learned weight finite
    log_BLL = torch.log(torch.where(open_BLL, weight_BLL.float(), 1.0))
    hidden_BLL = future_LL & ~open_BLL | ~valid_BL[:, None, :]
    itself_LL = torch.eye(L, dtype=torch.bool, device=valid_BL.device)
    hidden_BLL = torch.where(valid_BL[:, :, None], hidden_BLL, ~itself_LL)
    return log_BLL.masked_fill(hidden_BLL, -torch.inf).to(dtype)[:, None]

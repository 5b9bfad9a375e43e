"""The global query of hybrid (c): its attention says how much each block of the history counts. Paper, Appendix A.4.

Legend: B rows, H heads, G heads of keys, L tokens, Q heads per key head, K blocks of the history, S slots, D width, d
width of a head.
"""

import torch
from torch import Tensor

from ray_ggsm.masks import Tokens


class GlobalQuery:
    """Asks the layers for the attention of one query per row to all of its past; the last layer's remains."""

    def __init__(self, position_B: Tensor) -> None:
        self.position_B = position_B
        """int64: position of the query in its row; it sees itself and its past."""
        self.share_BL: Tensor | None = None
        """Its attention, the mean over heads, float32."""

    def take(self, query_BHLd: Tensor, key_BGLd: Tensor, valid_BL: Tensor, scale: float | None) -> None:
        """Keep the shares of a layer."""
        B, H, L, d = query_BHLd.shape
        rows_B, G = torch.arange(B, device=query_BHLd.device), key_BGLd.shape[1]
        own_BGQd = query_BHLd[rows_B, :, self.position_B].view(B, G, H // G, d).float()
        with torch.autocast(own_BGQd.device.type, enabled=False):
            logits_BGQL = own_BGQd @ key_BGLd.float().transpose(-1, -2) * (d**-0.5 if scale is None else scale)
        past_BL = valid_BL & (torch.arange(L, device=valid_BL.device) <= self.position_B[:, None])
        share_BGQL = logits_BGQL.masked_fill(~past_BL[:, None, None], -torch.inf).softmax(dim=-1)
        self.share_BL = share_BGQL.mean(dim=(1, 2))

    def blocks(self, hidden_BLD: Tensor, tokens: Tokens, block_S: Tensor) -> Tensor:
        """The mean states of the blocks of the history, weighted by the query's attention to each block, (B, D).

        Args:
            hidden_BLD: final hidden states, float32.
            tokens: the batch's positions.
            block_S: int64, the block of each slot, -1 for slots after the history.
        """
        assert self.share_BL is not None, "the backbone has run"
        block_BL = block_S[tokens.slot_BL].masked_fill(~tokens.history_BL, -1)
        number_K = torch.arange(int(block_S.max()) + 1, device=hidden_BLD.device)
        member_BKL = (block_BL[:, None, :] == number_K[:, None]).float()
        with torch.autocast(hidden_BLD.device.type, enabled=False):
            share_BK = (member_BKL @ self.share_BL[:, :, None]).squeeze(-1)
            mean_BKD = member_BKL @ hidden_BLD / member_BKL.sum(dim=-1, keepdim=True).clamp(min=1)
            return (share_BK[:, None, :] @ mean_BKD).squeeze(1) / share_BK.sum(dim=1, keepdim=True)

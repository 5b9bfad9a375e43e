"""What a mask recipe may know about a batch of token sequences.

Legend: B rows, L tokens (padded to the longest row), D hidden size, i query position, j key position.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """Positions of a padded batch; everything that masks depend on, and nothing else."""

    valid_BL: Tensor
    """bool: True for real tokens, False for padding."""
    slot_BL: Tensor
    """int64 in [0, n_slots): the place a token has in the template, comparable between users (modality and recency
    rank of an event, one slot per tag, query, <USER>). Arbitrary at padding."""
    history_BL: Tensor
    """bool: the user segment (everything before the instruction, or a whole answer of events). False at padding."""
    n_slots: int
    """Number of slots of the template; the importance of GG-SM is a vector over them."""
    n_positions: int
    """Longest sequence the template can make, in tokens."""

    def length_B(self) -> Tensor:
        """int64: real tokens per row."""
        return self.valid_BL.sum(dim=1)

    def position_BL(self) -> Tensor:
        """int64: the index of each token in its row."""
        B, L = self.valid_BL.shape
        return torch.arange(L, device=self.valid_BL.device).expand(B, L)

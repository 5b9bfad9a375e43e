"""Everything a mask recipe may know about a batch of token sequences.

Legend: B rows, L tokens (padded to the longest row), D hidden size, i query position, j key position.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """The positions of a padded batch."""

    valid_BL: Tensor
    """bool: True for real tokens, False for padding."""
    slot_BL: Tensor
    """int64 in [0, n_slots): each token's place in the template, which users have in common (modality and recency rank
    of an event; a tag; text). Arbitrary at padding."""
    history_BL: Tensor
    """bool: the user segment (everything before the instruction, or a whole answer of events). False at padding."""
    n_slots: int
    """Number of slots in the template."""
    n_positions: int
    """Length of the longest sequence that the template allows, in tokens."""
    question_BL: Tensor | None = None
    """int64: 0 for the history, k for the k-th of several instructions after it, which do not see each other; None: a
    row has one instruction."""
    answer_BL: Tensor | None = None
    """bool: an answer behind <USER>, which is read to learn its words; None: no row has one."""

    def without_answers(self) -> "Tokens":
        """The same with answers as padding: what recipes and the user vector may see."""
        if self.answer_BL is None:
            return self
        return replace(self, valid_BL=self.valid_BL & ~self.answer_BL, answer_BL=None)

    def closed_to_answers(self, weight: Tensor) -> Tensor:
        """A weight of future keys, (B, L) or (B, L, L), that hides answers from all that stands before them."""
        if self.answer_BL is None:
            return weight
        return weight.masked_fill(self.answer_BL if weight.dim() == 2 else self.answer_BL[:, None, :], 0)

    def length_B(self) -> Tensor:
        """int64: number of real tokens per row."""
        return self.valid_BL.sum(dim=1)

    def position_BL(self) -> Tensor:
        """int64: index of each token in its row; of several instructions, as if each were the only one."""
        B, L = self.valid_BL.shape
        index_BL = torch.arange(L, device=self.valid_BL.device).expand(B, L)
        if self.question_BL is None:
            return index_BL
        before_BL = (self.question_BL[:, :, None] > self.question_BL[:, None, :]) & (self.question_BL[:, None, :] > 0)
        return index_BL - (before_BL & self.valid_BL[:, None, :]).sum(dim=2)

    def apart_BLL(self) -> Tensor | None:
        """bool: whether query i and key j belong to different instructions of a row; None: no row has several."""
        if self.question_BL is None:
            return None
        key_B1L = self.question_BL[:, None, :]
        return (key_B1L > 0) & (key_B1L != self.question_BL[:, :, None])

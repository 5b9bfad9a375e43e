"""CoLES: contrastive learning for event sequences (Babaev et al., 2022; `kind: coles`).

Slices of one user's stream are alike, slices of other users are not. From each row some contiguous slices are cut, and
a GRU makes each a unit vector e:

    L = ( sum over positive pairs of |e_i - e_j|^2 + sum over negative pairs of max(0, margin - |e_i - e_j|)^2 ) / pairs

Positive are all pairs of slices of one user, also of two rows of theirs; negative are each slice's nearest slices of
other users. The vector is the state after the whole stream.

Legend: B rows of the global batch, b rows of this worker, K slices per row, S = B K slices, L positions, D width of
events, C width of the state.
"""

import torch
from torch import Tensor, nn

from ray_ggsm.encoders.stream import StreamBatch, StreamInput, StreamModel, last
from ray_ggsm.model.kinds import ColesConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.nested import prefix
from ray_ggsm.training.workers import Workers, draws_of_rows


class Coles(StreamModel):
    """The GRU."""

    def __init__(self, config: ColesConfig, modalities: tuple[Modality, ...], event_width: int) -> None:
        super().__init__(config.state)
        self.config = config
        self.input = StreamInput(config, modalities, event_width)
        self.gru = nn.GRU(config.width, config.state, batch_first=True)

    def states(self, batch: StreamBatch) -> Tensor:
        """As in `SmallModel`: the state after the whole stream."""
        return self._after(self.input(batch), batch.length_B)

    def loss(self, batch: StreamBatch, workers: Workers, seed: int) -> tuple[Tensor, Metrics]:
        """As in `SmallModel`; `uncut` is the share of rows that are too short to be cut."""
        c = self.config
        first_bK, length_bK = draw_slices(batch.length_B, c.slices, c.least, c.most, workers, seed)
        x_bLD, L = self.input(batch), int(length_bK.max())
        at_bKL = (first_bK[:, :, None] + torch.arange(L, device=x_bLD.device)).clamp(max=x_bLD.shape[1] - 1)
        row_b11 = torch.arange(len(x_bLD), device=x_bLD.device)[:, None, None]
        states = self._after(x_bLD[row_b11, at_bKL].flatten(0, 1), length_bK.flatten())
        e_SC = workers.gather(nn.functional.normalize(states, dim=1))
        user_S = workers.gather(batch.user_B.repeat_interleave(c.slices))
        uncut = workers.gather((batch.length_B <= c.least).float()).mean().item()
        parts = [contrast(prefix(e_SC, n), user_S, c.margin, c.hard_negatives) for n in (*self.nested, c.state)]
        return torch.stack(parts).mean(), {"uncut": uncut}

    def _after(self, x_BLD: Tensor, length_B: Tensor) -> Tensor:
        return last(self.gru(x_BLD)[0], length_B)


def draw_slices(length_b: Tensor, K: int, least: int, most: int, workers: Workers, seed: int) -> tuple[Tensor, Tensor]:
    """Beginnings and lengths of K slices of each row, int64 (b, K) each.

    Lengths are drawn evenly from `least` to `most`, or to the row's length if that is less, as pytorch-lifestream does;
    beginnings evenly from those that are left. Rows of `least` events or fewer are taken whole. A row's draw depends on
    its place in the global batch, not on the number of workers.
    """
    share_bK2 = draws_of_rows(len(length_b), 2 * K, workers, seed, length_b.device).unflatten(1, (K, 2))
    lengths_b1 = (length_b.clamp(max=most) - least + 1).clamp(min=1)[:, None]
    length_bK = torch.minimum(least + (share_bK2[:, :, 0] * lengths_b1).long(), length_b[:, None])
    return (share_bK2[:, :, 1] * (length_b[:, None] - length_bK + 1)).long(), length_bK


def contrast(e_SC: Tensor, user_S: Tensor, margin: float, hard_negatives: int) -> Tensor:
    """L of unit vectors of slices, and the users that they are of."""
    squared_SS = (2 - 2 * e_SC @ e_SC.T).clamp(min=0)
    same_SS = user_S[:, None] == user_S
    positive = squared_SS[same_SS.triu(1)]
    hard = min(hard_negatives, len(e_SC) - 1)
    nearest = squared_SS.detach().masked_fill(same_SS, torch.inf).topk(hard, dim=1, largest=False)
    chosen = squared_SS.gather(1, nearest.indices)[nearest.values.isfinite()]
    negative = (margin - chosen.clamp(min=1e-12).sqrt()).clamp(min=0).square()
    return (positive.sum() + negative.sum()) / max(len(positive) + len(negative), 1)

"""Contrastive predictive coding (van den Oord et al., 2018) on streams of events (`kind: cpc`).

A GRU reads the events of a row. From its state c_t, the content z of each of the next events is told from the contents
of other users' events:

    L = mean over k and t of -log( exp(z_{t+k} . W_k c_t) / (that + sum_n exp(z_n . W_k c_t)) ),  k = 1..ahead

z is an event without its age: else time alone would tell the next event from others. Negatives are drawn per row, from
all rows of the global batch. The vector is the state at the last event.

Legend: B rows of the global batch, b rows of this worker, L positions, D width of events, C width of the state,
N negatives, V valid positions of all rows.
"""

import torch
from torch import Tensor, nn

from ray_ggsm.encoders.stream import StreamBatch, StreamInput, StreamModel, last
from ray_ggsm.model.kinds import CpcConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.workers import Workers


class Cpc(StreamModel):
    """The GRU, and the predictors, which are no part of the published vector."""

    def __init__(self, config: CpcConfig, modalities: tuple[Modality, ...], event_width: int) -> None:
        super().__init__(config.state)
        self.config = config
        self.input = StreamInput(config, modalities, event_width)
        self.gru = nn.GRU(config.width, config.state, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(config.state, config.width, bias=False) for _ in range(config.ahead))
        """W_k, behind what is gathered from all workers."""

    def states(self, batch: StreamBatch) -> Tensor:
        """As in `SmallModel`: c at the last event."""
        return last(self._states(batch), batch.length_B)

    def loss(self, batch: StreamBatch, workers: Workers, seed: int) -> tuple[Tensor, Metrics]:
        """As in `SmallModel`."""
        state_bLC = self._states(batch)
        content_bLD = self.input.placed(batch, self.input.events(batch, torch.zeros_like(batch.age_E)))
        L = int(workers.gather(torch.tensor([state_bLC.shape[1]], device=state_bLC.device)).max())
        state_BLC, content_BLD = (workers.gather(_padded(x, L)) for x in (state_bLC, content_bLD))
        count_B, user_B = workers.gather(batch.count_B), workers.gather(batch.user_B)
        negative_BN = draw_negatives(count_B, user_B, L, self.config.negatives, seed)
        negative_BND = content_BLD.flatten(0, 1)[negative_BN]
        losses, hits = [], []
        for k, predict in enumerate(self.heads, start=1):
            if k >= L:
                break
            guess_BlD = predict(state_BLC[:, :-k])
            positive_Bl = (guess_BlD * content_BLD[:, k:]).sum(dim=2)
            negative_BlN = guess_BlD @ negative_BND.transpose(1, 2)
            there_Bl = torch.arange(k, L, device=count_B.device) < count_B[:, None]
            logits = torch.cat([positive_Bl[:, :, None], negative_BlN], dim=2)[there_Bl]
            losses.append(torch.logsumexp(logits, dim=1) - logits[:, 0])
            hits.append(logits[:, 0] > logits[:, 1:].max(dim=1).values)
        found = torch.cat(losses) if losses else state_BLC.new_zeros(0)
        if not len(found):  # no row has two events
            return state_BLC.sum() * 0, {"accuracy": 0.0}
        return found.mean(), {"accuracy": torch.cat(hits).float().mean().item()}

    def _states(self, batch: StreamBatch) -> Tensor:
        """c at every event, (B, L, C)."""
        states: Tensor = self.gru(self.input(batch))[0]
        return states


def draw_negatives(count_B: Tensor, user_B: Tensor, L: int, n: int, seed: int) -> Tensor:
    """For each row, `n` events of other users, drawn evenly and with replacement from all of theirs.

    Args:
        count_B: events of each row.
        user_B: equal for rows of one user.
        L: positions per row.
        n: number of negatives.
        seed: equal seeds give equal draws, on every worker.

    Returns:
        int64 (B, n): position of the event among the (B x L) of all rows; 0 where no other user has an event.
    """
    _, user_B = torch.unique(user_B, return_inverse=True)
    row_B = torch.argsort(user_B, stable=True)  # rows of one user lie together
    row_V = torch.repeat_interleave(row_B, count_B[row_B])
    ends_B = count_B[row_B].cumsum(0)
    rank_V = torch.arange(len(row_V), device=row_V.device) - torch.repeat_interleave(
        ends_B - count_B[row_B], count_B[row_B]
    )
    position_V = row_V * L + rank_V
    of_user_U = torch.zeros(int(user_B.max()) + 1, dtype=torch.int64, device=row_V.device).index_add_(
        0, user_B, count_B
    )
    first_U = of_user_U.cumsum(0) - of_user_U
    own_B, first_B = of_user_U[user_B], first_U[user_B]
    others_B = len(row_V) - own_B
    generator = torch.Generator().manual_seed(seed)
    share_BN = torch.rand(len(count_B), n, generator=generator, dtype=torch.float64).to(row_V.device)
    drawn_BN = (share_BN * others_B[:, None]).long().clamp(max=(others_B - 1).clamp(min=0)[:, None])
    drawn_BN = drawn_BN + torch.where(drawn_BN >= first_B[:, None], own_B[:, None], 0)
    if not len(position_V):
        return torch.zeros_like(drawn_BN)
    return torch.where(others_B[:, None] > 0, position_V[drawn_BN.clamp(max=len(position_V) - 1)], 0)


def _padded(x_bLD: Tensor, L: int) -> Tensor:
    return nn.functional.pad(x_bLD, (0, 0, 0, L - x_bLD.shape[1]))

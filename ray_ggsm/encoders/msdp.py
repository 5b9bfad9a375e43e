"""MSDP: the distribution of behaviours in windows of several lengths, and masked events (CIKM 2023; `kind: msdp`).

What will a user do in the next W days? Behaviours are clusters of event vectors. A causal transformer reads the events
and then W; its last state h predicts the distribution p of behaviours in (as_of, as_of + W]. All windows of a row stand
behind its events at once, and none sees another. Beside it, SimSiam wants the same h of the events with some of them
masked:

    L = CE(p, softmax(Linear h1)) + lambda / 2 (-cos(q(h1), sg h2) - cos(q(h2), sg h1))

The paper is known here from its abstract and from reviews; details are ours. The vector is h for the windows that the
config names, by default for the whole future.

Legend: B rows, b rows of this worker, J windows per row, n = b J, L positions, E events, V published windows, D width
of events and states, H width of event vectors, K behaviours.
"""

from dataclasses import dataclass
from math import log

import pyarrow as pa
import torch
from torch import Tensor, nn

from ray_ggsm.encoders.stream import (
    StreamBatch,
    StreamInput,
    StreamModel,
    StreamReader,
    TrainingBatch,
    clusters,
    nearest,
    raw_vectors,
    rows_of_events,
    sampled_vectors,
    start_from_rates,
    transformer,
)
from ray_ggsm.model.kinds import MsdpConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.workers import Workers, draws_of_rows

PRIOR_WINDOWS = 5
"""Lengths of windows, from a day to the whole future, that base rates of behaviours are counted in."""


@dataclass(frozen=True)
class MsdpBatch(TrainingBatch):
    """Histories and futures of some rows."""

    future: StreamBatch
    """All future events; their ages are zero or less."""


class Msdp(StreamModel):
    """The transformer, its predictors, and the behaviours."""

    centre_KH: Tensor
    """Centres of the behaviours, in the space of event vectors; infinite where there are fewer."""
    days_V: Tensor
    """Windows that vectors are published for."""
    future_days: Tensor

    def __init__(self, config: MsdpConfig, modalities: tuple[Modality, ...], event_width: int) -> None:
        V, D = len(config.windows_days or (0,)), config.width
        super().__init__(V * D)
        self.config = config
        self.input = StreamInput(config, modalities, event_width)
        self.transformer = transformer(config)
        self.window = nn.Sequential(nn.Linear(1, D), nn.GELU(), nn.Linear(D, D))
        self.masked_D = nn.Parameter(0.02 * torch.randn(D))
        """Stands for a masked event."""
        self.behaviours = nn.Linear(D, config.behaviours + 1)
        self.predictor = nn.Sequential(nn.Linear(D, D // 2), nn.GELU(), nn.Linear(D // 2, D))
        """q."""
        self.register_buffer("centre_KH", torch.zeros(config.behaviours, event_width))
        self.register_buffer("days_V", torch.ones(V))
        self.register_buffer("future_days", torch.ones(()))

    def prepare(self, reader: StreamReader, head: pa.Table, future_days: int | None, seed: int) -> None:
        """As in `SmallModel`; also finds the behaviours, by k-means on the vectors of future events."""
        super().prepare(reader, head, future_days, seed)
        assert future_days is not None, "rows to train on have futures"
        c, device = self.config, self.centre_KH.device
        future = reader.future(head).to(device)
        vector_NH = sampled_vectors(future.contents, c.clustered_events, seed)
        self.centre_KH.copy_(clusters(vector_NH, c.behaviours, seed))
        self.future_days.fill_(future_days)
        self.days_V.copy_(torch.tensor(c.windows_days or (future_days,)))
        days_J = torch.linspace(1, future_days, PRIOR_WINDOWS).round().to(device)
        start_from_rates(self.behaviours, self.distribution(future, days_J.expand(len(head), -1)).sum(dim=(0, 1)))

    def states(self, batch: StreamBatch) -> Tensor:
        """As in `SmallModel`: h of one window after the other, (B, V D)."""
        x_BLD = self.input(batch)
        return self._read(x_BLD, batch.valid_BL, self.days_V.expand(len(x_BLD), -1)).flatten(1)

    def training_batch(self, reader: StreamReader, rows: pa.Table, seed: int) -> MsdpBatch:
        """As in `SmallModel`."""
        return MsdpBatch(reader.batch(rows), reader.future(rows))

    def loss(self, batch: MsdpBatch, workers: Workers, seed: int) -> tuple[Tensor, Metrics]:
        """As in `SmallModel`: each worker has its rows' part of the mean."""
        c, history = self.config, batch.history
        J, L, device = c.windows_per_row, history.event_BL.shape[1], self.masked_D.device
        share_bX = draws_of_rows(len(history.length_B), J + c.newest, workers, seed, device).to(self.masked_D.dtype)
        days_bJ = 1 + (share_bX[:, :J] * self.future_days).floor().clamp(max=self.future_days - 1)
        hidden_bL = share_bX[:, J:][:, :L] < c.masked_share
        x_bLD = self.input(history)
        h1_nD = self._read(x_bLD, history.valid_BL, days_bJ).flatten(0, 1)
        masked_bLD = torch.where(hidden_bL[:, :, None], self.masked_D, x_bLD)
        h2_nD = self._read(masked_bLD, history.valid_BL, days_bJ).flatten(0, 1)
        p_nK = self.distribution(batch.future, days_bJ).flatten(0, 1)
        n = workers.reduce(torch.tensor(float(len(h1_nD)), device=h1_nD.device))
        predicted = -(p_nK * self.behaviours(h1_nD).log_softmax(dim=1)).sum() / n
        alike = (cosine(self.predictor(h1_nD), h2_nD) + cosine(self.predictor(h2_nD), h1_nD)).sum() / n
        loss = predicted - c.alike_weight / 2 * alike
        parts = {"loss": loss, "loss_behaviours": predicted, "cos_masked": alike / 2}
        return loss, {name: workers.reduce(part.detach().clone()).item() for name, part in parts.items()}

    def distribution(self, future: StreamBatch, days_bJ: Tensor) -> Tensor:
        """Share of each behaviour within so many days, and at last of "nothing", (b, J, K + 1)."""
        b, J = days_bJ.shape
        K, row_E = self.config.behaviours, rows_of_events(future)
        count_bJK = days_bJ.new_zeros(b, J, K + 1)
        if len(row_E):
            some = torch.arange(len(row_E), device=row_E.device).split(self.config.clustered_events)
            kind_E = torch.cat([nearest(raw_vectors(future.contents, each), self.centre_KH) for each in some])
            inside_EJ = -future.age_E[:, None] <= days_bJ[row_E]
            for j in range(J):
                inside_E = inside_EJ[:, j]
                ones = count_bJK.new_ones(int(inside_E.sum()))
                count_bJK[:, j].index_put_((row_E[inside_E], kind_E[inside_E]), ones, accumulate=True)
        total_bJ = count_bJK.sum(dim=2)
        count_bJK[:, :, K] = (total_bJ == 0).to(count_bJK)
        return count_bJK / total_bJ.clamp(min=1)[:, :, None]

    def _read(self, x_BLD: Tensor, valid_BL: Tensor, days_BJ: Tensor) -> Tensor:
        """h, (B, J, D): the states at the windows, which come after the last event."""
        L, J, device = x_BLD.shape[1], days_BJ.shape[1], x_BLD.device
        window_BJD = self.window((days_BJ.log() / log(30))[:, :, None])
        at = torch.arange(L + J, device=device)
        unseen_LL = at > at[:, None]  # later positions, and of windows all others
        unseen_LL |= (at >= L) & (at[:, None] >= L) & (at != at[:, None])
        padding_BL = torch.cat([~valid_BL, valid_BL.new_zeros(len(valid_BL), J)], dim=1)
        read_BLD = torch.cat([x_BLD, window_BJD], dim=1)
        state_BLD: Tensor = self.transformer(read_BLD, mask=unseen_LL, src_key_padding_mask=padding_BL)
        return state_BLD[:, L:]


def cosine(guess_nD: Tensor, state_nD: Tensor) -> Tensor:
    """SimSiam's similarity, (n,): no gradient goes to the state."""
    return nn.functional.cosine_similarity(guess_nD, state_nD.detach(), dim=1)

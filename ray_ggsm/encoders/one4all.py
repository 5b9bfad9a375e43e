"""One4all user representation: a BERT over events that says what masked events were (2106.00573; `kind: one4all`).

Of some events nine questions are asked, from the state at their place: the event's modality, its cluster in codebooks
of 16, 64 and 256, and year, month, day, weekday and hour of its time, on the clock of the rows:

    L = 1/9 sum_i CE_i, each the mean over these events

Most of them are hidden whole. The others stay visible, as in BERT: the vector is made of visible events' states, which
no loss would touch otherwise. (BERT also puts some random token in the place of an event; here there is none.)
The paper's items have four levels of categories; ours have a modality and three codebooks of event vectors. The vector
is the mean of the states of all events, of which none is hidden.

Legend: B rows, b rows of this worker, L positions, E events, r events that are read, m events that are asked of,
D width of events and states, H width of event vectors, C classes of a question.
"""

from dataclasses import dataclass

import numpy as np
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
from ray_ggsm.model.kinds import One4allConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.workers import Workers, draws_of_rows

MINUTES_PER_DAY = 1440
CALENDAR = ("year", "month", "day", "weekday", "hour")


@dataclass(frozen=True)
class One4allBatch(TrainingBatch):
    """Histories of some rows, and when their events were."""

    calendar_E5: Tensor
    """int64: year, month (0 to 11), day (0 to 30), weekday (0: Monday) and hour, on the clock of the rows."""


class One4all(StreamModel):
    """The transformer, its questions, and the codebooks."""

    years_2: Tensor
    """First and last year of the training rows' events."""

    def __init__(self, config: One4allConfig, modalities: tuple[Modality, ...], event_width: int) -> None:
        super().__init__(config.width)
        self.config, D = config, config.width
        self.input = StreamInput(config, modalities, event_width)
        self.place = nn.Embedding(config.newest, D)
        """Of an event, counted from the newest one: a hidden event tells no age."""
        self.transformer = transformer(config)
        self.hidden_D = nn.Parameter(0.02 * torch.randn(D))
        """Stands for a hidden event."""
        self.classes = [len(modalities), *config.codebooks, config.most_years, 12, 31, 7, 24]
        """Of each question."""
        self.questions = nn.ModuleList(nn.Linear(D, C) for C in self.classes)
        for i, size in enumerate(config.codebooks):
            self.register_buffer(f"codebook{i}_CH", torch.full((size, event_width), torch.inf))
        self.register_buffer("years_2", torch.zeros(2, dtype=torch.int64))

    def prepare(self, reader: StreamReader, head: pa.Table, future_days: int | None, seed: int) -> None:
        """As in `SmallModel`; also finds the codebooks, by k-means on event vectors, and the years."""
        super().prepare(reader, head, future_days, seed)
        batch, most = self.training_batch(reader, head, seed).to(self.years_2.device), self.config.clustered_events
        history = batch.history
        vector_NH = sampled_vectors(history.contents, most, seed)
        for i, size in enumerate(self.config.codebooks):
            self.get_buffer(f"codebook{i}_CH").copy_(clusters(vector_NH, size, seed))
        read_r = history.event_BL[history.event_BL < len(history.age_E)]
        year_r = batch.calendar_E5[read_r, 0]
        last = int(year_r.max())
        first = max(int(year_r.min()), last - self.config.most_years + 1)
        self.years_2.copy_(torch.tensor([first, last]))
        answer_rQ = torch.cat([self.answers(batch, some) for some in read_r.split(most)])
        for question, C, answer_r in zip(self.questions, self.classes, answer_rQ.T, strict=True):
            start_from_rates(question, torch.bincount(answer_r, minlength=C))

    def states(self, batch: StreamBatch) -> Tensor:
        """As in `SmallModel`: the mean over the events' states."""
        state_BLD = self._through(self.input(batch), batch)
        valid_BL1 = batch.valid_BL[:, :, None]
        return (state_BLD * valid_BL1).sum(dim=1) / valid_BL1.sum(dim=1)

    def training_batch(self, reader: StreamReader, rows: pa.Table, seed: int) -> One4allBatch:
        """As in `SmallModel`."""
        batch = reader.batch(rows)
        row_E = rows_of_events(batch).clamp(min=0)
        return One4allBatch(batch, calendar(batch.as_of_B[row_E].numpy() - batch.age_E.double().numpy()))

    def loss(self, batch: One4allBatch, workers: Workers, seed: int) -> tuple[Tensor, Metrics]:
        """As in `SmallModel`: each worker has its rows' part of the mean."""
        history = batch.history
        L, device = history.event_BL.shape[1], self.hidden_D.device
        share_bL = draws_of_rows(len(history.length_B), self.config.newest, workers, seed, device)[:, :L]
        asked_bL = (share_bL < self.config.masked_share) & (history.event_BL < len(history.age_E))
        hidden_bL = asked_bL & (share_bL < self.config.masked_share * (1 - self.config.visible_share))
        x_bLD = torch.where(hidden_bL[:, :, None], self.hidden_D, self.input(history))
        state_mD = self._through(x_bLD, history)[asked_bL]
        answer_mQ = self.answers(batch, history.event_BL[asked_bL])
        m = workers.reduce(torch.tensor(float(len(state_mD)), device=device)).clamp(min=1)
        losses, right = [], []
        for question, answer_m in zip(self.questions, answer_mQ.T, strict=True):
            logits_mC = question(state_mD)
            losses.append(nn.functional.cross_entropy(logits_mC, answer_m, reduction="sum") / m)
            right.append((logits_mC.argmax(dim=1) == answer_m).sum() / m)
        names = ("modality", *(f"codebook_{size}" for size in self.config.codebooks), *CALENDAR)
        loss = torch.stack(losses).mean()
        parts = {"loss": loss, "accuracy": torch.stack(right).mean()}
        parts |= {f"loss_{name}": each for name, each in zip(names, losses, strict=True)}
        return loss, {name: workers.reduce(part.detach().clone()).item() for name, part in parts.items()}

    def answers(self, batch: One4allBatch, event_m: Tensor) -> Tensor:
        """The right class of each question about these events, int64 (m, 9)."""
        vector_mH = raw_vectors(batch.history.contents, event_m)
        codes = [nearest(vector_mH, self.get_buffer(f"codebook{i}_CH")) for i in range(len(self.config.codebooks))]
        calendar_m5 = batch.calendar_E5[event_m]
        year_m = calendar_m5[:, 0].clamp(self.years_2[0], self.years_2[1]) - self.years_2[0]
        return torch.stack([batch.history.modality_E[event_m], *codes, year_m, *calendar_m5[:, 1:].T], dim=1)

    def _through(self, x_BLD: Tensor, batch: StreamBatch) -> Tensor:
        """States (B, L, D); every event sees all others."""
        place_BL = (batch.length_B[:, None] - 1 - torch.arange(x_BLD.shape[1], device=x_BLD.device)).clamp(min=0)
        return self.transformer(x_BLD + self.place(place_BL), src_key_padding_mask=~batch.valid_BL)


def calendar(when_E: np.ndarray) -> Tensor:
    """Year, month, day, weekday and hour of times in days since 1970, int64 (E, 5); to the minute, because ages are
    float32."""
    minute_E = np.rint(when_E * MINUTES_PER_DAY).astype(np.int64)
    time_E = minute_E.astype("datetime64[m]")
    day_E, month_E = time_E.astype("datetime64[D]"), time_E.astype("datetime64[M]")
    parts = [
        time_E.astype("datetime64[Y]").astype(np.int64) + 1970,
        month_E.astype(np.int64) % 12,
        (day_E - month_E.astype("datetime64[D]")).astype(np.int64),
        (day_E.astype(np.int64) + 3) % 7,  # 1 January 1970 was a Thursday
        minute_E // 60 % 24,
    ]
    return torch.from_numpy(np.stack(parts, axis=1))

"""FOUND (2412.12468): histories in agreement with themselves, then with sentences about the future (`kind: found`).

A GRU reads the events of each modality, a small network the z-scores of the features. One learned query attends over
the modalities' states and the features: e. Training has two stages:

    I.  two windows of one history agree:    InfoNCE(e1, e2) + w/2 (KL(p1 | p2) + KL(p2 | p1)),   p = softmax(e)
    II. e agrees with a sentence q that tells what the user did next:   1/2 (InfoNCE(e, q) + InfoNCE(q, e))

A sentence is read by the frozen event encoder, with a linear map behind it. In stage I the features are left out: both
windows have the same. A row one of whose windows has no event says nothing there. The vector is e of the whole history,
normalised; a text that users are compared with is a q.

Legend: B rows of the global batch, b rows of this worker, L positions, M modalities, S slots (modalities, features,
nothing), D width of events, C width of states and vectors, F features, H width of event vectors.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ray_ggsm.config import InputError
from ray_ggsm.encoders.stream import StreamBatch, StreamInput, StreamModel, StreamReader, TrainingBatch, last
from ray_ggsm.hashing import hash64
from ray_ggsm.model.adapters import FeatureScores
from ray_ggsm.model.contract import Sequences
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.events import Events, sample_future_events
from ray_ggsm.model.kinds import FoundConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.pretrained import packed
from ray_ggsm.training.answers import render
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.loss import Objective, batch_statistics, gathered
from ray_ggsm.training.nested import nested_info_nce
from ray_ggsm.training.workers import Workers, draws_of_rows


@dataclass(frozen=True)
class Sentences:
    """Texts as event vectors."""

    vector_BH: Tensor
    """float32."""
    id_B: Tensor
    """int64: equal for equal texts."""
    cut_B: Tensor
    """bool: whether the text is longer than what is read of it."""

    def to(self, device: torch.device) -> "Sentences":
        """The same on another device."""
        return Sentences(self.vector_BH.to(device), self.id_B.to(device), self.cut_B.to(device))

    @property
    def n_tokens(self) -> int:
        """Texts: each is one token."""
        return len(self.id_B)


@dataclass(frozen=True)
class FoundBatch(TrainingBatch):
    """Histories, and sentences about what came next."""

    sentences: Sentences | None
    """None in stage I."""


class Found(StreamModel):
    """The networks of modalities and features, what fuses them, and the map of sentences."""

    history_days: Tensor
    """Age of the oldest event of training rows."""

    def __init__(self, config: FoundConfig, modalities: tuple[Modality, ...], event_width: int, features: int) -> None:
        C = config.state
        super().__init__(C)
        self.config, self.modalities = config, modalities
        self.input = StreamInput(config, modalities, event_width)
        self.grus = nn.ModuleList(nn.GRU(config.width, C, batch_first=True) for _ in modalities)
        self.scores = FeatureScores(features)
        self.features = nn.Sequential(nn.Linear(features, C), nn.GELU(), nn.Linear(C, C)) if features else None
        self.nothing_C = nn.Parameter(0.02 * torch.randn(C))
        """Stands for a row that has nothing else."""
        self.query_C = nn.Parameter(torch.randn(C) / C**0.5)
        self.sentence = nn.Linear(event_width, C)
        self.register_buffer("history_days", torch.ones(()))
        self.event_encoder_digest: str | None = None
        """Of the event encoder that the weights go with, where that is known."""
        self.packed_in: str | None = None
        """Directory of the encoder, which may have the event encoder in it."""
        self._texts: EventEncoder | None = None

    def prepare(self, reader: StreamReader, head: pa.Table, future_days: int | None, seed: int) -> None:
        """As in `SmallModel`: also mean and scale of each feature, and the length of histories."""
        super().prepare(reader, head, future_days, seed)
        batch = reader.batch(head)
        self.scores.fit(batch.tabular_BF.to(self.centre_W.device))
        if len(batch.age_E):
            self.history_days.fill_(batch.age_E.max())

    def states(self, batch: StreamBatch) -> Tensor:
        """As in `SmallModel`: e."""
        return self.fused(self.input(batch), batch, batch.valid_BL, with_features=True)

    def vectors(self, batch: StreamBatch) -> Tensor:
        """As in `SmallModel`, not centred: sentences are compared with e as it was trained."""
        return nn.functional.normalize(self.states(batch).float(), dim=1)

    def text_sequences(self, texts: Sequence[str]) -> Sequences[Sentences]:
        """As in `Encoder`."""
        sentences = self.told(texts)
        return Sequences(np.ones(len(texts), dtype=np.int64), lambda n: _chosen(sentences, torch.from_numpy(n)))

    def text_vectors(self, batch: Sentences) -> Tensor:
        """As in `SmallModel`: q."""
        return nn.functional.normalize(self.sentence(batch.vector_BH), dim=1)

    def training_batch(self, reader: StreamReader, rows: pa.Table, seed: int) -> FoundBatch:
        """As in `SmallModel`."""
        told = (
            None if self.aligns_windows else self.told(sentences(rows, self.modalities, self.config.told_events, seed))
        )
        return FoundBatch(reader.batch(rows), told)

    def loss(self, batch: FoundBatch, workers: Workers, seed: int) -> tuple[Tensor, Metrics]:
        """As in `SmallModel`: every worker computes all of it."""
        history, objective = batch.history, Objective(self.config.temperature, margin=2.0, terms=("ua",))
        if batch.sentences is None:
            e1_bC, e2_bC, both_b = self._windows(history, workers, seed)
            e1_BC, e2_BC, both_B = workers.gather(e1_bC), workers.gather(e2_bC), workers.gather(both_b.float()) > 0
            empty = {"windows_empty": 1 - both_B.float().mean().item()}
            if not both_B.any():
                return (e1_BC.sum() + e2_BC.sum()) * 0, {"accuracy": 0.0, "divergence": 0.0, **empty}
            sides = gathered(e1_BC[both_B], e2_BC[both_B], workers.gather(history.user_B)[both_B], False)
            divergence = alike(e1_BC[both_B], e2_BC[both_B])
            loss = nested_info_nce(sides, objective, self.nested) + self.config.divergence_weight * divergence
            accuracy = batch_statistics(sides, objective).accuracy
            return loss, {"accuracy": accuracy, "divergence": divergence.item(), **empty}
        e_bC, q_bC = self.states(history), self.sentence(batch.sentences.vector_BH)
        sides = gathered(e_bC, q_bC, history.user_B, False, workers.gather, batch.sentences.id_B)
        swapped = sides._replace(user_BD=sides.answer_BD, answer_BD=sides.user_BD)
        loss = (nested_info_nce(sides, objective, self.nested) + nested_info_nce(swapped, objective, self.nested)) / 2
        cut = workers.gather(batch.sentences.cut_B.float()).mean().item()
        return loss, {"accuracy": batch_statistics(sides, objective).accuracy, "sentences_cut": cut}

    @property
    def aligns_windows(self) -> bool:
        """Whether training is in stage I."""
        return self.progress < self.config.first_stage

    def fused(self, x_BLD: Tensor, batch: StreamBatch, read_BL: Tensor, with_features: bool) -> Tensor:
        """e of the events at some positions, (B, C)."""
        slot_BSC, there_BS = self.slots(x_BLD, batch, read_BL, with_features)
        return (self.weights(slot_BSC, there_BS)[:, :, None] * slot_BSC).sum(dim=1)

    def weights(self, slot_BSC: Tensor, there_BS: Tensor) -> Tensor:
        """How much each slot counts, (B, S): a slot that is not there has 0, and their sum is 1."""
        score_BS = slot_BSC @ self.query_C / slot_BSC.shape[2] ** 0.5
        return score_BS.masked_fill(~there_BS, -torch.inf).softmax(dim=1)

    def slots(self, x_BLD: Tensor, batch: StreamBatch, read_BL: Tensor, with_features: bool) -> tuple[Tensor, Tensor]:
        """States of modalities, features and "nothing", (B, S, C), and which of them are there, (B, S)."""
        modality_E1 = torch.cat([batch.modality_E, batch.modality_E.new_full((2,), -1)])
        modality_BL, states, there = modality_E1[batch.event_BL], [], []
        for m, gru in enumerate(self.grus):
            mine_BL = (modality_BL == m) & read_BL
            count_B = mine_BL.sum(dim=1)
            n = max(int(count_B.max()), 1)
            first_Bn = (~mine_BL).to(torch.uint8).argsort(dim=1, stable=True)[:, :n]
            x_BnD = x_BLD.gather(1, first_Bn[:, :, None].expand(-1, -1, x_BLD.shape[2]))
            states.append(last(gru(x_BnD)[0], count_B.clamp(min=1)))
            there.append(count_B > 0)
        if self.features is not None and with_features:
            states.append(self.features(self.scores.z_scores(batch.tabular_BF)))
            there.append(torch.ones_like(there[0]))
        states.append(self.nothing_C.expand_as(states[0]))
        there.append(~torch.stack(there).any(dim=0))
        return torch.stack(states, dim=1), torch.stack(there, dim=1)

    def told(self, texts: Sequence[str]) -> Sentences:
        """Texts as the event encoder reads them.

        Raises:
            InputError: it is not the event encoder that the weights go with.
        """
        if self._texts is None:
            with packed(self.packed_in, "event_encoder") if self.packed_in else nullcontext() as place:
                self._texts = EventEncoder(self.config.event_encoder, self.centre_W.device, place)
            if self.event_encoder_digest not in (None, self._texts.digest):
                raise InputError(
                    f"model.event_encoder: '{self.config.event_encoder.name}' is {self._texts.digest}, and the encoder "
                    f"was trained with {self.event_encoder_digest}: restore that one"
                )
        longest = self.config.told_tokens
        self._texts.check_length(longest)
        vector_BH = torch.from_numpy(self._texts.encode(texts, longest=longest).astype(np.float32))
        cut_B = torch.from_numpy(self._texts.is_longer(texts, longest))
        return Sentences(vector_BH, torch.from_numpy(hash64(texts).view(np.int64).copy()), cut_B)

    def _windows(self, batch: StreamBatch, workers: Workers, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """e of two windows of each history, (b, C) each, and whether both have events, bool (b,)."""
        share_b4 = draws_of_rows(len(batch.length_B), 4, workers, seed, self.centre_W.device).float()
        x_bLD, age_bL = (
            self.input(batch),
            torch.cat([batch.age_E, batch.age_E.new_full((2,), torch.nan)])[batch.event_BL],
        )
        vectors, both_b = [], torch.ones_like(batch.length_B, dtype=torch.bool)
        for share_b2 in share_b4.split(2, dim=1):
            from_b, to_b = draw_windows(share_b2, self.config.window_days, float(self.history_days))
            read_bL = (age_bL >= from_b[:, None]) & (age_bL <= to_b[:, None])
            vectors.append(self.fused(x_bLD, batch, read_bL, with_features=False))
            both_b = both_b & read_bL.any(dim=1)
        return vectors[0], vectors[1], both_b


def draw_windows(share_B2: Tensor, least_days: float, history_days: float) -> tuple[Tensor, Tensor]:
    """Ages of the newest and oldest event of windows, (B,) each, for two random numbers in [0, 1) per row.

    Lengths are drawn evenly from `least_days` (or the whole history, if that is shorter) to the whole history, places
    evenly.
    """
    least = min(least_days, history_days)
    length_B = least + share_B2[:, 0] * (history_days - least)
    from_B = share_B2[:, 1] * (history_days - length_B)
    return from_B, from_B + length_B


def alike(e1_BC: Tensor, e2_BC: Tensor) -> Tensor:
    """Mean over rows of the two divergences between the softmaxes of two vectors, halved: 0 if they are equal."""
    log1_BC, log2_BC = e1_BC.log_softmax(dim=1), e2_BC.log_softmax(dim=1)
    one = nn.functional.kl_div(log2_BC, log1_BC, reduction="batchmean", log_target=True)
    other = nn.functional.kl_div(log1_BC, log2_BC, reduction="batchmean", log_target=True)
    return (one + other) / 2


def sentences(rows: pa.Table, modalities: Sequence[Modality], limit: int, seed: int) -> list[str]:
    """What each row's user did next, from at most `limit` future events: `bill: milk, bread x2. For more than 12.`

    A row's draw depends on its key and the seed only.
    """
    events = sample_future_events(rows, [replace(m, keep=limit) for m in modalities], limit, seed)
    texts, amount_B = render(events, [m.name for m in modalities]), _amounts(events)
    return [
        f"{text} For more than {int(amount)}." if amount > 0 else text
        for text, amount in zip(texts, amount_B, strict=True)
    ]


def _amounts(events: Events) -> np.ndarray:
    """Sum of each row's amounts, (B,)."""
    M, B = events.count_MB.shape
    length = events.count_MB.reshape(-1)
    row_E = np.repeat(np.arange(M * B), length) % B
    return np.bincount(row_E, weights=np.nan_to_num(events.amount_E.astype(np.float64)), minlength=B)


def _chosen(sentences: Sentences, index_N: Tensor) -> Sentences:
    return Sentences(sentences.vector_BH[index_N], sentences.id_B[index_N], sentences.cut_B[index_N])

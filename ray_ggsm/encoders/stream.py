"""All events of a row as one stream, oldest first: what kinds read that know no modality tags.

    x_t = LN(Linear(event vector)) + modality + fields + numbers(age, amount)

Legend: B rows, L events of the longest row, E events of all rows (modality by modality, row by row), M modalities,
H width of event vectors, D width of the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from ray_ggsm.clock import MICROSECONDS_PER_DAY, wall_clock_of_as_of
from ray_ggsm.config import InputError
from ray_ggsm.encoders.small_model import SmallModel
from ray_ggsm.hashing import hash64
from ray_ggsm.model.adapters import FieldEmbedding, NumberEmbedding
from ray_ggsm.model.batch import on_device, tabular_matrix
from ray_ggsm.model.contents import Contents, Lookup, contents_of
from ray_ggsm.model.contract import Sequences
from ray_ggsm.model.events import Events, history_events, read_events, sample_future_events
from ray_ggsm.model.kinds import StreamConfig, TransformerConfig
from ray_ggsm.model.modality import Modality, field_names
from ray_ggsm.model.ragged import ranks

ALL = 2**31
"""More events than a row has."""


@dataclass(frozen=True)
class StreamBatch:
    """The padded streams of some rows. A row without events has one position, `nothing`."""

    contents: Contents
    modality_E: Tensor
    """int64."""
    age_E: Tensor
    """float32: days before as_of."""
    amount_E: Tensor
    """float32: NaN where an event has none."""
    event_BL: Tensor
    """int64: index of the event; E at the position of a row without events, E + 1 at padding."""
    length_B: Tensor
    """int64: positions that are no padding, at least 1."""
    count_B: Tensor
    """int64: events."""
    user_B: Tensor
    """int64: equal for rows of one user."""
    as_of_B: Tensor
    """float64: what clocks in the zone of the rows showed at as_of, days since 1970."""
    tabular_BF: Tensor
    """float32: features as they are in the rows."""

    def to(self, device: torch.device) -> "StreamBatch":
        """The same batch on another device."""
        return on_device(self, device)

    @property
    def n_tokens(self) -> int:
        """Number of positions, without padding."""
        return int(self.length_B.sum())

    @property
    def valid_BL(self) -> Tensor:
        """bool: which positions are no padding."""
        return torch.arange(self.event_BL.shape[1], device=self.length_B.device) < self.length_B[:, None]


@dataclass(frozen=True)
class TrainingBatch:
    """What a loss reads: histories, and what a kind adds to them."""

    history: StreamBatch

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""
        return on_device(self, device)

    @property
    def n_tokens(self) -> int:
        """Positions of the histories, without padding."""
        return self.history.n_tokens


class StreamReader:
    """User rows (`ray_ggsm.data.schema`) -> batches."""

    def __init__(self, modalities: Sequence[Modality], newest: int, lookup: Lookup) -> None:
        """Of all events that the modalities keep, a row's `newest` are read."""
        self.modalities, self.newest, self.lookup = tuple(modalities), newest, lookup

    def counts(self, rows: pa.Table) -> np.ndarray:
        """Events of each row that are read, int64 (B,)."""
        return read_events(rows, self.modalities, self.newest)

    def sequences(self, rows: pa.Table) -> Sequences[StreamBatch]:
        """Lengths of the rows, and their batches on demand."""
        return Sequences(np.maximum(self.counts(rows), 1), lambda index_N: self.batch(rows.take(pa.array(index_N))))

    def batch(self, rows: pa.Table) -> StreamBatch:
        """The batch of rows, in their order."""
        return self._batch(rows, history_events(rows, self.modalities), self.newest)

    def _batch(self, rows: pa.Table, events: Events, newest: int) -> StreamBatch:
        B, E = len(rows), len(events.age_E)
        count_MB = events.count_MB
        modality_E = np.repeat(np.arange(len(self.modalities)), count_MB.sum(axis=1))
        row_E = np.concatenate([np.repeat(np.arange(B), count_B) for count_B in count_MB])
        # by row, oldest first; of equal age, in the order of the modalities
        order_E = np.lexsort((np.arange(E), -events.age_E, row_E))
        total_B = count_MB.sum(axis=0)
        kept_B = np.minimum(total_B, newest)
        rank_E = ranks(total_B) - np.repeat(total_B - kept_B, total_B)
        read_E = rank_E >= 0
        length_B = np.maximum(kept_B, 1)
        event_BL = np.full((B, int(length_B.max())), E + 1, dtype=np.int64)
        event_BL[total_B == 0, 0] = E
        event_BL[np.repeat(np.arange(B), total_B)[read_E], rank_E[read_E]] = order_E[read_E]
        return StreamBatch(
            contents_of(events, self.lookup, *field_names(self.modalities)),
            torch.from_numpy(modality_E),
            torch.from_numpy(events.age_E),
            torch.from_numpy(events.amount_E),
            torch.from_numpy(event_BL),
            torch.from_numpy(length_B),
            torch.from_numpy(kept_B),
            torch.from_numpy(hash64(rows["user_id"]).view(np.int64).copy()),
            torch.from_numpy(wall_clock_of_as_of(rows["as_of"]) / MICROSECONDS_PER_DAY),
            tabular_matrix(rows),
        )

    def future(self, rows: pa.Table) -> StreamBatch:
        """All future events of rows, as a batch; their ages are zero or less."""
        modalities = [replace(modality, keep=ALL) for modality in self.modalities]
        return self._batch(rows, sample_future_events(rows, modalities, ALL, 0), ALL)

    def numbers(self, rows: pa.Table) -> Tensor:
        """The number fields of the rows' events, (E, N) float32, NaN where an event has none."""
        return contents_of(history_events(rows, self.modalities), self.lookup, *field_names(self.modalities)).number_EN


class StreamInput(nn.Module):
    """Events as vectors of one width."""

    def __init__(self, config: StreamConfig, modalities: Sequence[Modality], event_width: int) -> None:
        super().__init__()
        D = config.width
        self.text = nn.Sequential(nn.Linear(event_width, D), nn.LayerNorm(D))
        self.modality = nn.Embedding(len(modalities), D)
        self.numbers = NumberEmbedding(D, config.periods_days)
        texts, numbers = field_names(modalities)
        self.fields = FieldEmbedding(len(texts), len(numbers), D, config.fields) if texts or numbers else None
        self.nothing_D = nn.Parameter(torch.zeros(D))
        """Stands for the events of a row that has none."""

    def events(self, batch: StreamBatch, age_E: Tensor) -> Tensor:
        """Vectors of events that are told this age, (E, D)."""
        contents = batch.contents
        event_ED = nn.functional.embedding_bag(
            contents.content_X,
            self.text(contents.vector_PH),
            contents.first_E,
            mode="sum",
            per_sample_weights=contents.weight_X,
        )
        event_ED = event_ED + self.modality(batch.modality_E) + self.numbers(age_E, batch.amount_E)
        if self.fields is not None:
            event_ED = event_ED + self.fields(contents.bucket_EK, contents.number_EN)
        return event_ED

    def placed(self, batch: StreamBatch, event_ED: Tensor) -> Tensor:
        """Vectors of events at their positions, (B, L, D); zero at padding."""
        rows = [event_ED, self.nothing_D[None], torch.zeros_like(self.nothing_D)[None]]
        return torch.cat(rows)[batch.event_BL]

    def forward(self, batch: StreamBatch) -> Tensor:
        """x, (B, L, D)."""
        return self.placed(batch, self.events(batch, batch.age_E))


class StreamModel(SmallModel[StreamBatch]):
    """A kind of encoder that reads streams."""

    input: StreamInput

    def prepare(self, reader: StreamReader, head: pa.Table, future_days: int | None, seed: int) -> None:
        """As in `SmallModel`: statistics of the events' number fields."""
        if self.input.fields is not None:
            self.input.fields.fit(reader.numbers(head).to(self.centre_W.device))


def last(state_BLD: Tensor, length_B: Tensor) -> Tensor:
    """The state at the last position of each row, (B, D)."""
    return state_BLD[torch.arange(state_BLD.shape[0], device=state_BLD.device), length_B - 1]


def rows_of_events(batch: StreamBatch) -> Tensor:
    """The row of each event that is read, (E,); -1 for others."""
    row_E = batch.event_BL.new_full((len(batch.age_E),), -1)
    is_event_BL = batch.event_BL < len(row_E)
    row_BL = torch.arange(len(batch.event_BL), device=row_E.device)[:, None].expand_as(batch.event_BL)
    row_E[batch.event_BL[is_event_BL]] = row_BL[is_event_BL]
    return row_E


def raw_vectors(contents: Contents, event_m: Tensor) -> Tensor:
    """Vectors of some events as they come from the event encoder, parts summed with their weights, (m, H)."""
    bound_E1 = torch.cat([contents.first_E, contents.first_E.new_tensor([len(contents.content_X)])])
    first_m, count_m = bound_E1[event_m], bound_E1.diff()[event_m]
    start_m = count_m.cumsum(0) - count_m
    at_x = (first_m - start_m).repeat_interleave(count_m)
    at_x = at_x + torch.arange(len(at_x), device=at_x.device)
    return nn.functional.embedding_bag(
        contents.content_X[at_x], contents.vector_PH, start_m, mode="sum", per_sample_weights=contents.weight_X[at_x]
    )


def transformer(config: TransformerConfig) -> nn.TransformerEncoder:
    """The transformer of a config."""
    D = config.width
    layer = nn.TransformerEncoderLayer(D, config.heads, 4 * D, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(D), enable_nested_tensor=False)


@torch.no_grad()
def start_from_rates(head: nn.Module, count_C: Tensor) -> None:
    """Let a linear head begin with how often its classes are right, by counts in training rows and half a row each.

    A head that first has to learn this takes the states along (`ray_ggsm.training.targets.Heads`).
    """
    rate_C = count_C.double() + 0.5
    assert isinstance(head, nn.Linear)
    head.bias.copy_((rate_C / rate_C.sum()).log())


def sampled_vectors(contents: Contents, most: int, seed: int) -> Tensor:
    """Vectors of up to `most` events, drawn at random, (N, H)."""
    drawn_N = np.random.default_rng(seed).permutation(len(contents.first_E))[:most]
    return raw_vectors(contents, torch.from_numpy(drawn_N).to(contents.first_E.device))


def clusters(vector_NH: Tensor, size: int, seed: int) -> Tensor:
    """Centres of k-means, (size, H); infinite where fewer vectors are distinct.

    Raises:
        InputError: fewer than two vectors are distinct, so there is nothing to tell apart.
    """
    from sklearn.cluster import KMeans  # only training needs it, and it takes a second to load

    found_NH = vector_NH.cpu().numpy()
    distinct = len(np.unique(found_NH, axis=0))
    if distinct < 2:
        raise InputError(
            "data.modalities: encoders of the kinds msdp and one4all learn which texts or parts events have, and need "
            f"training rows whose events (of msdp: future events) have at least two distinct ones, found {distinct}; "
            "give a modality `text` or `parts`, or choose another kind, for example cpc or coles"
        )
    k = min(size, distinct)
    centre_CH = torch.full((size, found_NH.shape[1]), torch.inf)
    centre_CH[:k] = torch.from_numpy(KMeans(k, n_init=1, random_state=seed).fit(found_NH).cluster_centers_)
    return centre_CH


def nearest(vector_EH: Tensor, centre_CH: Tensor) -> Tensor:
    """The nearest of the centres that are finite, int64 (E,)."""
    return torch.cdist(vector_EH, centre_CH[centre_CH.isfinite().all(dim=1)]).argmin(dim=1)

"""User rows (Arrow) -> what the encoder takes: a layout, token ids, event vectors and numbers.

Legend: M modalities, B rows, E events of the batch (modality by modality, row by row, oldest first), H width of the
event encoder, F tabular features, T text tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transformers

from ray_ggsm.hashing import hash64
from ray_ggsm.masks import Tokens
from ray_ggsm.model.template import TABULAR, Layout, Template

Lookup = Callable[[pa.Array], np.ndarray]
"""Event texts (E) -> their event-encoder vectors (E, H)."""

MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Events:
    """The events of a batch, modality by modality, row by row, oldest first."""

    count_MB: np.ndarray
    text_E: pa.Array
    age_E: np.ndarray
    """days before as_of; negative for future events"""
    amount_E: np.ndarray
    """NaN where an event has none"""


@dataclass(frozen=True)
class Batch:
    """One tower's padded input."""

    layout: Layout
    text_ids_T: torch.Tensor
    """int64 token ids of instructions or answer texts"""
    vector_EH: torch.Tensor
    """float32 event-encoder vectors"""
    age_E: torch.Tensor
    amount_E: torch.Tensor
    count_M: tuple[int, ...]
    """events per modality, to choose the adapter"""
    tabular_BF: torch.Tensor | None

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return _to(self, device)

    @property
    def n_tokens(self) -> int:
        """Real tokens, without padding."""
        return int(self.layout.last_B.sum()) + len(self.layout.last_B)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Batch | Layout | Tokens):
        return replace(value, **{f.name: _to(getattr(value, f.name), device) for f in fields(value)})
    return value


class Collator:
    """Builds batches for both towers."""

    def __init__(self, template: Template, tokenizer: "transformers.PreTrainedTokenizerBase", lookup: Lookup) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.lookup = lookup

    def users(self, rows: pa.Table) -> Batch:
        """The user tower's batch for user rows (`ray_ggsm.data.schema`), in their order."""
        events = history_events(rows, self.template)
        ids = self._token_ids(_instructions(rows))
        layout = self.template.user_layout(events.count_MB, np.array([len(i) for i in ids]))
        return self._batch(layout, ids, events, tabular_matrix(rows) if self.template.tabular_tokens else None)

    def user_lengths(self, rows: pa.Table) -> np.ndarray:
        """Tokens of each row in the user tower, (B,)."""
        t = self.template
        special = len(t.tags) - 1 + t.tabular_tokens  # all tags but <ANSWER>
        texts = [len(ids) for ids in self._token_ids(_instructions(rows))]
        return kept_events(rows, t).sum(axis=0) + np.array(texts, dtype=np.int64) + special

    def answer_events(self, events: Events) -> Batch:
        """The answer tower's batch for sampled future events."""
        return self._batch(self.template.answer_events_layout(events.count_MB), [], events, None)

    def answer_texts(self, texts: Sequence[str]) -> Batch:
        """The answer tower's batch for texts; EOS is appended to each."""
        return self.answer_ids(self.text_ids(texts))

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of answer texts, EOS included."""
        return [[*ids, self.tokenizer.eos_token_id] for ids in self._token_ids(texts, reserve=1)]

    def answer_ids(self, ids: list[list[int]]) -> Batch:
        """The answer tower's batch for what `text_ids` gives."""
        layout = self.template.answer_text_layout(np.array([len(i) for i in ids]))
        return self._batch(layout, ids, _no_events(len(self.template.modalities), len(ids)), None)

    def _token_ids(self, texts: Sequence[str], reserve: int = 0) -> list[list[int]]:
        limit = self.template.max_text_tokens - reserve
        if not len(texts):
            return []
        encoded: list[list[int]] = self.tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=limit, split_special_tokens=True
        )["input_ids"]
        return encoded

    def _batch(self, layout: Layout, ids: list[list[int]], events: Events, tabular_BF: torch.Tensor | None) -> Batch:
        flat = np.array([token for row in ids for token in row], dtype=np.int64)
        vector_EH = torch.from_numpy(self.lookup(events.text_E).astype(np.float32, copy=False))
        counts = tuple(int(n) for n in events.count_MB.sum(axis=1))
        age_E, amount_E = torch.from_numpy(events.age_E), torch.from_numpy(events.amount_E)
        return Batch(layout, torch.from_numpy(flat), vector_EH, age_E, amount_E, counts, tabular_BF)


def _instructions(rows: pa.Table) -> list[str]:
    queries = rows["query"].to_pylist() if "query" in rows.column_names else [None] * len(rows)
    return ["Instruction:" + (f" {query}" if query else "") for query in queries]


def kept_events(rows: pa.Table, template: Template) -> np.ndarray:
    """How many events per modality and row the template keeps, int64 (M, B)."""
    counts = [pc.fill_null(pc.list_value_length(rows[m.name].combine_chunks()), 0) for m in template.modalities]
    keep_M1 = np.array([[m.keep] for m in template.modalities])
    return np.minimum(np.stack([c.to_numpy(zero_copy_only=False).astype(np.int64) for c in counts]), keep_M1)


def history_events(rows: pa.Table, template: Template) -> Events:
    """The newest `keep` events per modality and row."""
    as_of_B = rows["as_of"].cast(pa.int64()).to_numpy()
    parts, counts = [], []
    for modality in template.modalities:
        column = rows[modality.name].combine_chunks()
        count_B = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        from_end = np.repeat(np.cumsum(count_B), count_B) - 1 - np.arange(count_B.sum())
        kept = column.flatten().filter(pa.array(from_end < modality.keep))
        count_B = np.minimum(count_B, modality.keep)
        parts.append((kept, np.repeat(as_of_B, count_B)))
        counts.append(count_B)
    return _events(parts, np.stack(counts))


def sample_future_events(rows: pa.Table, template: Template, limit: int, seed: int) -> Events:
    """At most `limit` events of each row's `future` column, drawn without replacement; oldest first per modality.

    Modalities are ordered as in the template, and no modality exceeds its own `keep`. A row's draw depends on its own
    key and `seed` only, not on the rows beside it.
    """
    column = rows["future"].combine_chunks()
    count_B = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    row_E = np.repeat(np.arange(len(rows)), count_B)
    events = column.flatten()
    rank_E = np.arange(len(row_E)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
    key_B = row_keys(rows) ^ np.uint64(seed)
    order = np.lexsort((_scramble(_scramble(key_B)[row_E] + rank_E.astype(np.uint64)), row_E))
    drawn = np.sort(order[rank_E < limit])
    events, row_E = events.take(pa.array(drawn)), row_E[drawn]
    names = np.array(events.field("modality").to_pylist(), dtype=object)
    as_of_B = rows["as_of"].cast(pa.int64()).to_numpy()
    parts, counts = [], []
    for modality in template.modalities:
        mine = np.flatnonzero(names == modality.name)
        rank = np.arange(len(mine)) - np.searchsorted(row_E[mine], row_E[mine])
        mine = mine[rank < modality.keep]
        parts.append((events.take(pa.array(mine)), as_of_B[row_E[mine]]))
        counts.append(np.bincount(row_E[mine], minlength=len(rows)))
    return _events(parts, np.stack(counts))


def row_keys(rows: pa.Table) -> np.ndarray:
    """A 64-bit key of each row's (user_id, as_of), uint64; equal on every machine."""
    as_of_B = rows["as_of"].cast(pa.int64()).to_pylist()
    return hash64(f"{user} {as_of}" for user, as_of in zip(rows["user_id"].to_pylist(), as_of_B, strict=True))


def _scramble(value: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: neighbouring integers become unrelated ones."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def tabular_matrix(rows: pa.Table) -> torch.Tensor:
    """The `tabular` column as (B, F) float32."""
    flat = rows[TABULAR].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.astype(np.float32).reshape(len(rows), -1))


def _events(parts: list[tuple[pa.StructArray, np.ndarray]], count_MB: np.ndarray) -> Events:
    text = pa.concat_arrays([events.field("text").cast(pa.string()) for events, _ in parts])
    age = [(as_of - events.field("time").cast(pa.int64()).to_numpy()) / MICROSECONDS_PER_DAY for events, as_of in parts]
    amount = [events.field("amount").to_numpy(zero_copy_only=False) for events, _ in parts]
    return Events(count_MB, text, np.concatenate(age).astype(np.float32), np.concatenate(amount).astype(np.float32))


def _no_events(M: int, B: int) -> Events:
    nothing = np.zeros(0, dtype=np.float32)
    return Events(np.zeros((M, B), dtype=np.int64), pa.array([], pa.string()), nothing, nothing)

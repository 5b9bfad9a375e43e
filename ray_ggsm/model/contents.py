"""The contents of events, as the encoder reads them: vectors of texts and of weighted parts, and fields.

Each distinct text or part of a modality is looked up, and later adapted, once per batch. An event's text counts with
weight 1. Its parts count with the signed logarithms of their weights, scaled so that an event's squares sum to 1: a
basket says what it consists of, and its amount says how large it is.

Legend: M modalities, E events of the batch, P distinct contents (modality by modality), X contents of all events
(event by event), H width of the event encoder, K text fields, N number fields.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ray_ggsm.hashing import hash64, scramble
from ray_ggsm.model.events import Events
from ray_ggsm.model.ragged import list_lengths, starts
from ray_ggsm.numerics import signed_log

Lookup = Callable[[pa.Array], np.ndarray]
"""Texts of events and parts (P) -> their event-encoder vectors (P, H)."""


@dataclass(frozen=True)
class Contents:
    """What the events of a batch hold."""

    vector_PH: torch.Tensor
    """float32: event-encoder vectors of the distinct texts and parts."""
    count_M: tuple[int, ...]
    """Number of distinct contents per modality, to choose the adapter."""
    content_X: torch.Tensor
    """int64: index among the distinct contents."""
    weight_X: torch.Tensor
    """float32: weight of the content in its event."""
    first_E: torch.Tensor
    """int64: index of each event's first content."""
    bucket_EK: torch.Tensor
    """int64: two hash buckets per text field, -1 for a field without a value; the columns are 2K."""
    number_EN: torch.Tensor
    """float32: number fields, NaN where an event has none."""
    hash_P: torch.Tensor | None = None
    """int64: hash of each distinct content and its modality, where an encoder asks for them."""

    @property
    def by_modality(self) -> Sequence[torch.Tensor]:
        """The event-encoder vectors of each modality."""
        vectors: Sequence[torch.Tensor] = self.vector_PH.split(list(self.count_M))
        return vectors


def contents_of(
    events: Events, lookup: Lookup, text_fields: Sequence[str], number_fields: Sequence[str], hashed: bool = False
) -> Contents:
    """The contents of events.

    Args:
        events: the events of a batch.
        lookup: finds event-encoder vectors.
        text_fields: names of the fields that are hashed.
        number_fields: names of the fields that are numbers.
        hashed: whether the distinct contents come with hashes.
    """
    E = len(events.age_E)
    event, text, weight = _texts_and_parts(events)
    bound_M = np.concatenate([[0], np.cumsum(events.count_MB.sum(axis=1))])
    index_X = np.zeros(len(event), dtype=np.int64)
    vectors: list[np.ndarray] = []
    counts: list[int] = []
    hashes: list[np.ndarray] = []
    for m, (start, end) in enumerate(zip(*np.searchsorted(event, [bound_M[:-1], bound_M[1:]]), strict=True)):
        encoded = text.slice(start, end - start).dictionary_encode()
        index_X[start:end] = encoded.indices.to_numpy() + sum(counts)
        vectors.append(lookup(encoded.dictionary))
        counts.append(len(encoded.dictionary))
        if hashed:
            hashes.append(scramble(hash64(encoded.dictionary) + np.uint64(m)))
    numbers = [events.fields[name].to_numpy(zero_copy_only=False) for name in number_fields]
    return Contents(
        torch.from_numpy(np.concatenate(vectors).astype(np.float32)),
        tuple(counts),
        torch.from_numpy(index_X),
        torch.from_numpy(weight),
        torch.from_numpy(starts(np.bincount(event, minlength=E))),
        torch.from_numpy(_buckets(events, text_fields)),
        torch.from_numpy(np.stack(numbers, axis=1).astype(np.float32) if numbers else np.zeros((E, 0), np.float32)),
        torch.from_numpy(np.concatenate(hashes).view(np.int64)) if hashed else None,
    )


def _texts_and_parts(events: Events) -> tuple[np.ndarray, pa.Array, np.ndarray]:
    """Event, text and weight of each content, event by event, (X)."""
    event = np.flatnonzero(pc.is_valid(events.text_E).to_numpy(zero_copy_only=False))
    text, weight = events.text_E.take(pa.array(event)), np.ones(len(event), dtype=np.float32)
    if events.parts_E is None:
        return event, text, weight
    part_event = np.repeat(np.arange(len(events.parts_E)), list_lengths(events.parts_E))
    parts = events.parts_E.flatten()
    size = signed_log(parts.field("weight").to_numpy(zero_copy_only=False).astype(np.float64))
    length_E = np.sqrt(np.bincount(part_event, weights=size**2, minlength=len(events.parts_E)))
    size = size / np.where(length_E > 0, length_E, 1)[part_event]
    event = np.concatenate([event, part_event])
    order = np.argsort(event, kind="stable")
    text = pa.concat_arrays([text, parts.field("text").cast(pa.string())]).take(pa.array(order))
    return event[order], text, np.concatenate([weight, size.astype(np.float32)])[order]


def _buckets(events: Events, fields: Sequence[str]) -> np.ndarray:
    """Two halves of the 64-bit hash of each field and its value, int64 (E, 2K); -1 where there is no value."""
    columns = np.full((len(events.age_E), 2 * len(fields)), -1, dtype=np.int64)
    for k, name in enumerate(fields):
        encoded = events.fields[name].dictionary_encode()
        hash_V = hash64(f"{name}={value}" for value in encoded.dictionary.to_pylist())
        valid_E = pc.is_valid(encoded.indices).to_numpy(zero_copy_only=False)
        value_E = hash_V[pc.fill_null(encoded.indices, 0).to_numpy()[valid_E]]
        columns[valid_E, 2 * k] = value_E & np.uint64(0xFFFFFFFF)
        columns[valid_E, 2 * k + 1] = value_E >> np.uint64(32)
    return columns

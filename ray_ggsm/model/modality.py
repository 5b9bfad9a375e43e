"""What an encoder reads of each kind of event. Reading it loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

PARTS = pa.list_(pa.struct([pa.field("text", pa.string()), pa.field("weight", pa.float32())]))
"""The parts of an event, for example the categories of a basket with what was spent on each."""


@dataclass(frozen=True)
class Modality:
    """One kind of event sequence."""

    name: str
    keep: int
    """Number of newest events kept per row."""
    text_fields: tuple[str, ...] = ()
    """Named texts that are read beside an event's text."""
    number_fields: tuple[str, ...] = ()
    """Named numbers that are read."""
    parts: bool = False
    """Whether an event's weighted parts are read."""


def field_names(modalities: Sequence[Modality]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of all text fields and of all number fields, each once, in the order of their first appearance."""
    texts = dict.fromkeys(name for modality in modalities for name in modality.text_fields)
    numbers = dict.fromkeys(name for modality in modalities for name in modality.number_fields)
    return tuple(texts), tuple(numbers)

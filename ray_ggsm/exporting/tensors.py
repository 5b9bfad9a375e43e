"""A batch of any kind of encoder as named tensors, and back: what an ONNX graph takes.

A tensor's name is its path in the batch; the letters at its end are its axes. Those of VARYING differ from batch to
batch. The event vectors of each modality are a tensor of their own.

Legend: B rows, L tokens, E events, X contents, P distinct contents, T text tokens, M modalities, H width of event
vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ray_ggsm.model.contents import Contents

VARYING = "BLEXPT"


@dataclass(frozen=True)
class GraphContents(Contents):
    """Contents whose modalities come apart, so that a graph need not know how many each has."""

    vectors_M: tuple[Tensor, ...] = ()
    """float32 (P, H) each."""

    @property
    def by_modality(self) -> Sequence[Tensor]:
        """The event-encoder vectors of each modality."""
        return self.vectors_M


def tensors_of(batch: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch by name, in an order that is the same for all batches of an encoder."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(batch, Contents) and field.name == "vector_PH":
            yield from ((f"{path}m{k}_vector_PH", each) for k, each in enumerate(batch.by_modality))
        elif isinstance(value, Tensor):
            yield f"{path}{field.name}", value
        elif is_dataclass(value):
            yield from tensors_of(value, f"{path}{field.name}_")


def batch_of(example: Any, tensors: Mapping[str, Tensor], path: str = "") -> Any:
    """The batch of `tensors`; what is no tensor is as in the example."""
    found: dict[str, Any] = {}  # arguments of the example's class
    for field in fields(example):
        value = getattr(example, field.name)
        if isinstance(value, Tensor) and not (isinstance(example, Contents) and field.name == "vector_PH"):
            found[field.name] = tensors[f"{path}{field.name}"]
        elif is_dataclass(value):
            found[field.name] = batch_of(value, tensors, f"{path}{field.name}_")
    if not isinstance(example, Contents):
        return replace(example, **found)
    vectors_M = tuple(tensors[f"{path}m{k}_vector_PH"] for k in range(len(example.count_M)))
    return GraphContents(torch.cat(vectors_M), example.count_M, vectors_M=vectors_M, **found)


def varying_axes(name: str) -> dict[int, str]:
    """Position -> letter of the axes of a tensor that differ from batch to batch."""
    return {axis: letter for axis, letter in enumerate(name.rsplit("_", 1)[1]) if letter in VARYING}

"""A map from the vectors of a new encoder into the space of an old one, and its file.

Two encoders of the same users put much the same into other coordinates, so models that were fitted on the old vectors
can read the new ones once these are turned back. `ray_ggsm.tables.fit_map` fits maps, `ray_ggsm.tables.compatible`
follows several of them.

Legend: N users, A width of the old vectors, B of the new ones, H hidden units.
"""

from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ray_ggsm.config import InputError
from ray_ggsm.numerics import unit


@dataclass(frozen=True)
class Network:
    """A layer of rectified units that is added to a linear map."""

    weight_BH: np.ndarray
    """Input weights, float32."""
    offset_H: np.ndarray
    """Input offsets, float32."""
    weight_HA: np.ndarray
    """Output weights, float32."""

    def __call__(self, new_NB: np.ndarray) -> np.ndarray:
        """What is added, (N, A) float32."""
        added_NA: np.ndarray = np.maximum(new_NB @ self.weight_BH + self.offset_H, 0) @ self.weight_HA
        return added_NA


@dataclass(frozen=True)
class SpaceMap:
    """`new @ weight + offset`, and what a network adds; scaled to length 1 where the old vectors have it."""

    weight_BA: np.ndarray
    """Weights, float32."""
    offset_A: np.ndarray
    """Offset, float32."""
    normalise: bool
    """Whether mapped vectors are scaled to length 1."""
    network: Network | None = None
    """Not linear part; None: the map is linear."""

    def __call__(self, new_NB: np.ndarray) -> np.ndarray:
        """Mapped vectors, (N, A) float32."""
        mapped_NA = new_NB @ self.weight_BA + self.offset_A
        if self.network is not None:
            mapped_NA = mapped_NA + self.network(new_NB)
        return (unit(mapped_NA) if self.normalise else mapped_NA).astype(np.float32)

    def to_bytes(self) -> bytes:
        """The content of its safetensors file."""
        tensors = {"weight": self.weight_BA, "offset": self.offset_A, "normalise": np.array([self.normalise], np.uint8)}
        if self.network is not None:
            tensors |= {
                "network.weight_in": self.network.weight_BH,
                "network.offset": self.network.offset_H,
                "network.weight_out": self.network.weight_HA,
            }
        return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})

    @classmethod
    def from_bytes(cls, data: bytes, file: str) -> "SpaceMap":
        """The map that `to_bytes` described; `file` is its name in errors.

        Raises:
            InputError: it is no file of a map.
        """
        try:
            tensors = load(data)
            network = None
            if "network.offset" in tensors:
                network = Network(*(tensors[f"network.{name}"] for name in ("weight_in", "offset", "weight_out")))
            return cls(tensors["weight"], tensors["offset"], bool(tensors["normalise"][0]), network)
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{file}: this is no file of a map ({error}); restore it from a backup") from None

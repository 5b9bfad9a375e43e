"""What the training loop needs of a kind of encoder; all else about a step is the loop's (`ray_ggsm.training.loop`)."""

from typing import Protocol

import pyarrow as pa
import torch
from torch import nn

Metrics = dict[str, float]
"""Name -> value of one step."""


class Learner(Protocol):
    """An encoder in training, on one worker."""

    @property
    def step(self) -> int:
        """Number of optimiser steps done."""

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def product_dtype(self) -> torch.dtype:
        """Type of its matrix products, for `utilisation`."""

    @property
    def record(self) -> dict[str, list[float]]:
        """What it records over the steps, step -> values; checkpoints keep it."""

    @property
    def sources(self) -> dict[str, str]:
        """What it was made of beside its config (backbone, event encoder) -> digest; a run goes on with the same."""

    def prepare(self) -> None:
        """Take statistics from training rows, before the first step."""

    def gradients(self, rows: pa.Table) -> Metrics:
        """Add to the parameters' gradients those of the global batch, of which this worker has `rows`.

        Returns:
            metrics, among them `loss`, `tokens` (this worker's) and `flops` (of forward and backward passes).

        Raises:
            DivergenceError: the loss is not finite, or vectors collapsed to one point.
        """

    def advance(self) -> None:
        """Count a step, after the weights were updated."""

    def held_out(self, rows: pa.Table) -> Metrics:
        """Metrics of rows that are never trained on, of which this worker has a part; among them `loss`."""

    def settle(self) -> None:
        """Set what is frozen with an encoder: the centre of its vectors. Before each save."""

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name. Of those whose name begins with `heads.` every worker computes
        the whole gradient, of the others the part of its own rows. Names that begin with `backbone.` have the learning
        rate of pretrained weights."""

    def save(self, directory: str) -> None:
        """Write into a local directory what `restore` needs; it is a saved encoder, too."""

    def restore(self, directory: str, step: int, record: dict[str, list[float]]) -> None:
        """Load what `save` wrote after so many steps, in place."""

    def save_encoder(self, location: str) -> None:
        """Write the directory of the encoder alone, local or s3://."""

    def write_record(self, location: str) -> None:
        """Write what it recorded over the steps, beside the log at a location."""

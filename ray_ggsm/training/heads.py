"""What linear heads read from the published vector in training: dense targets, and an older encoder's vectors.

Every worker computes these losses over the global batch. Heads are in checkpoints, and not in saved encoders.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_ggsm.model.encoder import UserEncoder
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.old_space import OldSpace
from ray_ggsm.training.targets import Heads, TargetMaker, Targets

FILE = "heads.safetensors"
"""File of a checkpoint."""


class Wanted(NamedTuple):
    """What should be read from the vectors of a batch."""

    targets: Targets | None
    old_BV: Tensor | None
    """The older encoder's vectors, float32."""


class VectorHeads:
    """The heads of a training run; there may be none."""

    def __init__(
        self,
        config: TrainingConfig,
        encoder: UserEncoder,
        head: pa.Table,
        future_days: int | None,
        seed: int,
        old_space: OldSpace | None,
    ) -> None:
        """Make heads for what the config asks for; arguments as of `Contrastive`."""
        self.config, self.device = config, encoder.device
        self.maker: TargetMaker | None = None
        self.targets: Heads | None = None
        self.old_space = None if old_space is None else old_space.to(self.device)
        if config.targets is not None:
            assert future_days is not None, "targets need the length of futures"
            modalities = [m.name for m in encoder.template.modalities]
            self.maker = TargetMaker(config.targets, modalities, future_days, head, self.device)
            heads = Heads(encoder.vector_width, self.maker.widths, self.maker.prior, seed, config.nested)
            self.targets = heads.to(self.device)

    @property
    def any(self) -> bool:
        """Whether there are heads."""
        return self.targets is not None or self.old_space is not None

    def wanted(self, rows: pa.Table, gather: Callable[[Tensor], Tensor]) -> Wanted:
        """What should be read from the global batch, of which this worker has `rows`."""
        targets = None if self.maker is None else Targets(*map(gather, self.maker(rows).parts))
        old_BV = None if self.old_space is None else gather(self.old_space.vectors(rows).to(self.device))
        return Wanted(targets, old_BV)

    def losses(self, vector_BW: Tensor, wanted: Wanted) -> dict[str, Tensor]:
        """The weighted loss of each part, scalars, from the published vectors of the global batch."""
        found: dict[str, Tensor] = {}
        if self.targets is not None and wanted.targets is not None and self.config.targets is not None:
            found |= self.targets.losses(vector_BW, wanted.targets, self.config.targets)
        if self.old_space is not None and wanted.old_BV is not None:
            found["old_space"] = self.old_space.loss(vector_BW, wanted.old_BV)
        return found

    def parameters(self) -> dict[str, nn.Parameter]:
        """The heads' parameters by name."""
        modules: dict[str, nn.Module | None] = {"": self.targets, "old_space.": self.old_space}
        return {
            prefix + name: parameter
            for prefix, module in modules.items()
            if module is not None
            for name, parameter in module.named_parameters()
        }

    def save(self, directory: str) -> None:
        """Write the heads into a local directory."""
        if self.any:
            state = {name: p.detach().cpu() for name, p in self.parameters().items()}
            save_file(state, os.path.join(directory, FILE))

    @torch.no_grad()
    def restore(self, directory: str) -> None:
        """Load what `save` wrote, in place."""
        if self.any:
            state, own = load_file(os.path.join(directory, FILE)), self.parameters()
            assert state.keys() == own.keys(), "the run's identity is the same, so it has the same heads"
            for name, parameter in own.items():
                parameter.copy_(state[name])

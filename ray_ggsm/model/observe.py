"""Gradients of the loss at hidden states, or at the mask, which GG-SM learns from.

Legend: B rows, L tokens, D width of the backbone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ray_ggsm.config import InputError

if TYPE_CHECKING:
    import transformers


@dataclass(frozen=True)
class Observe:
    """A request for the loss gradients at some place, which the backward pass delivers."""

    site: str
    """`input`, `last`, `layer:k` (the states after k layers), `mean_layers` (those after each layer), or `mask` (log
    w, where w is a weight per key)."""
    take: Callable[[Tensor], None]
    """Gets the gradients (B, L, D), once per observed layer; of `mask`, (B, L)."""

    def attach(
        self, weight: Tensor, inputs_BLD: Tensor, output: "transformers.modeling_outputs.BaseModelOutput"
    ) -> None:
        """Have the backward pass of one forward pass deliver.

        Raises:
            InputError: the backbone has too few layers.
        """
        if self.site == "mask":
            weight.register_hook(lambda grad: self.take(grad * weight.detach()))  # d/d log w = w d/dw
            return
        for state_BLD in self._states(inputs_BLD, output):
            state_BLD.register_hook(self.take)

    def _states(self, inputs_BLD: Tensor, output: "transformers.modeling_outputs.BaseModelOutput") -> Sequence[Tensor]:
        if self.site == "input":
            return [inputs_BLD]
        if self.site == "last":
            return [output.last_hidden_state]
        after_layers: Sequence[Tensor] = output.hidden_states[1:]
        if self.site == "mean_layers":
            return after_layers
        k = int(self.site.removeprefix("layer:"))
        if k > len(after_layers):
            raise InputError(f"mask.grad_site: found layer:{k}, but the backbone has {len(after_layers)} layers")
        return [after_layers[k - 1]]

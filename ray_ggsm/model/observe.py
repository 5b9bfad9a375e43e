"""Gradients of the loss at hidden states, which GG-SM learns from.

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
    """A request for the loss gradients at some hidden states, which the backward pass delivers."""

    site: str
    """`input`, `last`, `layer:k` (the states after k layers), `mean_layers` (those after each layer), or `mask` (log
    w)."""
    take: Callable[[Tensor], None]
    """Gets the gradients (B, L, D), once per observed layer; of `mask`, (B, L)."""

    def states(
        self, log_weight: Tensor | None, inputs_BLD: Tensor, output: "transformers.modeling_outputs.BaseModelOutput"
    ) -> Sequence[Tensor]:
        """The observed states of one forward pass.

        Raises:
            InputError: the backbone has too few layers.
        """
        if self.site == "mask":
            assert log_weight is not None
            return [log_weight]
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

"""The interface every mask recipe has.

All recipes answer one question: the weight w in [0, 1] with which query i sees a future key j (j > i). Past keys always
weigh 1. `ray_ggsm.masks.bias` turns w into an attention bias.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from ray_ggsm.config import Config
from ray_ggsm.masks.tokens import Tokens

Timing = Literal["previous_step", "two_pass", "frozen_tower"]
"""Which backward pass `observe` sees: that of the step itself, so that it acts from the next step on; a probe pass just
before the step; or a probe pass of a copy of the encoder that stays as it was at step 0."""

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers and returns the sum on each of them; the identity on one worker."""


class RecipeConfig(Config):
    """Base of every recipe's config: the field `recipe` is a Literal, the recipe's name in YAML."""

    recipe: str

    def build(self) -> "Recipe":
        """The recipe that this config describes."""
        raise NotImplementedError


class ScheduledConfig(RecipeConfig):
    """Fields of the recipes that change during training."""

    total_steps: int | None = None
    """T_total, optimiser steps. null: the length of the training run."""

    def require_total_steps(self) -> int:
        """T_total, which the training run fills in when the config leaves it open."""
        if self.total_steps is None or self.total_steps < 1:
            raise ValueError(f"mask.total_steps: expected a positive number of steps, found {self.total_steps}")
        return self.total_steps


class WarmupConfig(ScheduledConfig):
    """Fields of the recipes that wait before they ramp."""

    warmup_share: float = Field(0.2, gt=0, lt=1)
    """T_warm as a share of T_total."""

    def clock(self) -> "Clock":
        """T_warm and T_total in steps."""
        total = self.require_total_steps()
        return Clock(max(1, round(self.warmup_share * total)), total)


@dataclass(frozen=True)
class Clock:
    """T_warm and T_total, optimiser steps."""

    warmup_steps: int
    total_steps: int

    def alpha(self, step: int) -> float:
        """(t - T_warm) / (T_total - T_warm) of eq. 5: 0 during warm-up, 1 at T_total."""
        if self.total_steps <= self.warmup_steps:
            return float(step >= self.total_steps)
        return min(max((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0), 1.0)


class Recipe(Protocol):
    """How far attention is open towards the future, during training and at inference.

    Recipes subclass this and say what is special about them; the rest stays as it is here.
    """

    grad_site: str | None = None
    """Where the training loop takes the gradients given to `observe`; None when the recipe needs none."""
    timing: Timing = "previous_step"
    """In which pass it takes them."""
    trains: bool = True
    """Whether the encoder is trained at all."""
    global_query: bool = False
    """Whether a learnable token after the history joins the user vector."""

    def learned_mask(self, width: int, layers: int) -> nn.Module | None:
        """Trained part of the mask, kept with the encoder: called as (layer index, states (B, L, width), weight of
        `future_weight` or `inference_weight`), it returns that layer's weight; None when there is none."""
        return None

    def alpha(self, step: int) -> float:
        """Progress from the first to the inference mask, in [0, 1]; 1 when the mask never changes."""
        return 1.0

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """w at optimiser step `step` (0-based): (B, L) when it depends on the key only, else (B, L, L)."""
        ...

    def wants_gradients(self, step: int) -> bool:
        """Whether `observe` would learn from the gradients of this step."""
        return False

    def observe(self, grad_BLD: Tensor, tokens: Tokens, step: int) -> None:
        """Take note of the loss gradient at the hidden states of one (micro-)batch of step `step`."""
        return

    def end_step(self, reduce: Reduce) -> None:
        """Fold what all workers observed in this step into the state; called by every worker after `backward`."""
        return

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """w for embedding with the finished encoder; same shapes as `future_weight`."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What has to be stored to go on, or to embed, exactly like this."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        return


def constant_weight(tokens: Tokens, value: float) -> Tensor:
    """The same weight for every key, (B, L) float32."""
    return torch.full(tokens.valid_BL.shape, value, device=tokens.valid_BL.device)

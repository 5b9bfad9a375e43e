"""The interface of all mask recipes.

Every recipe answers one question: with which weight w in [0, 1] does query i see a future key j (j > i)? Past keys
always weigh 1. `ray_ggsm.masks.bias` turns w into an attention bias.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ray_ggsm.config import Config
from ray_ggsm.masks.tokens import Tokens

Timing = Literal["previous_step", "two_pass", "frozen_tower"]
"""The backward pass whose gradients `observe` gets.

previous_step: the training step's own pass; its gradients count from the next step on.
two_pass: an extra pass just before the step.
frozen_tower: an extra pass of the encoder as it was at step 0.
"""

GlobalJoin = Literal["blocks", "state"]
"""What a global query adds to the user vector: blocks of the history by its attention, or its own state."""

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers and returns the sum on each of them; the identity on one worker."""


class RecipeConfig(Config, ABC):
    """Base of every recipe's config. Subclasses declare `recipe` as a Literal: the recipe's name in YAML."""

    recipe: str

    @abstractmethod
    def build(self) -> "Recipe":
        """The recipe that this config describes."""


class ScheduledConfig(RecipeConfig):
    """Fields of the recipes that change during training."""

    total_steps: int | None = Field(None, ge=1)
    """T_total, optimiser steps. null: the length of the training run."""

    def require_total_steps(self) -> int:
        """T_total.

        Raises:
            ValueError: it is not set.
        """
        if self.total_steps is None:
            raise ValueError("mask.total_steps: expected a number of steps, found none")
        return self.total_steps


class WarmupConfig(ScheduledConfig):
    """Fields of the recipes that warm up before they ramp."""

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


class Recipe(ABC):
    """How far attention is open towards the future, in training and at inference.

    A subclass defines `future_weight` and `inference_weight`; everything else has a default.
    """

    grad_site: str | None = None
    """Where the gradients are taken that the training loop gives to `observe` (`ray_ggsm.model.observe`); None when the
    recipe needs none."""
    timing: Timing = "previous_step"
    """The backward pass that these gradients come from."""
    trains: bool = True
    """Whether the encoder is trained at all."""
    global_query: GlobalJoin | None = None
    """What a learnable token after the history adds to the user vector; None without such a token."""
    history_sees_query: bool = True
    """Whether states of the history depend on the instruction after it. If not, many instructions share one history."""

    @abstractmethod
    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """w at optimiser step `step` (0-based): (B, L) when it depends on the key only, else (B, L, L)."""

    @abstractmethod
    def inference_weight(self, tokens: Tokens) -> Tensor:
        """w for embedding with the finished encoder; shapes as in `future_weight`."""

    def alpha(self, step: int) -> float:
        """Progress from the first mask to the inference mask, in [0, 1]; 1 when the mask never changes."""
        return 1.0

    def learned_mask(self, width: int, layers: int) -> nn.Module | None:
        """The trained part of the mask, which is saved with the encoder; None when the recipe has none.

        The module is called as (layer index, states (B, L, width), weight of `future_weight` or `inference_weight`)
        and returns the weight of that layer.
        """
        return None

    def wants_gradients(self, step: int) -> bool:
        """Whether `observe` would learn from the gradients of this step."""
        return False

    def observe(self, grad_BLD: Tensor, tokens: Tokens, step: int) -> None:
        """Collect the loss gradient at `grad_site` of one micro-batch of step `step`."""
        return

    def end_step(self, reduce: Reduce) -> None:
        """Merge into the state what all workers observed in this step. Every worker calls it after `backward`."""
        return

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a restored recipe needs to go on, or to embed, exactly like this one."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore `state_dict`."""
        return


def constant_weight(tokens: Tokens, value: float) -> Tensor:
    """The same weight for every key, (B, L) float32."""
    return torch.full(tokens.valid_BL.shape, value, device=tokens.valid_BL.device)

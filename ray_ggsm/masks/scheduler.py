"""Recipes that open the mask by the clock, without looking at the data. Paper, Appendix A.4 (b)."""

import math
from typing import Literal

from torch import Tensor

from ray_ggsm.masks.recipe import Recipe, ScheduledConfig, WarmupConfig, constant_weight
from ray_ggsm.masks.tokens import Tokens


class SchedulerConfig(ScheduledConfig):
    """Opens from causal at step 0 to bidirectional at T_total."""

    recipe: Literal["scheduler"]
    shape: Literal["linear", "cosine", "window", "cosine_window"] = "linear"
    """linear, cosine: every future key weighs alpha(t). window, cosine_window: a query sees the next Delta(t) keys and
    no later ones; Delta(t) is alpha(t) times the row's length, with linear or cosine alpha."""

    def build(self) -> "Scheduler":
        """A schedule of this shape up to T_total."""
        return Scheduler(self)


class Scheduler(Recipe):
    """A weight of future keys that rises with the step."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.shape, self.total_steps = config.shape, config.require_total_steps()

    def alpha(self, step: int) -> float:
        """0 at step 0, 1 from T_total on."""
        share = min(step / self.total_steps, 1.0)
        return (1 - math.cos(math.pi * share)) / 2 if self.shape.startswith("cosine") else share

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L), or (B, L, L) for the window."""
        alpha = self.alpha(step)
        if not self.shape.endswith("window"):
            return constant_weight(tokens, alpha)
        position_BL = tokens.position_BL()
        ahead_BLL = position_BL[:, None, :] - position_BL[:, :, None]
        return (ahead_BLL <= (alpha * tokens.length_B()).floor()[:, None, None]).float()

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """Bidirectional."""
        return constant_weight(tokens, 1.0)


class ConstantConfig(WarmupConfig):
    """GG-SM's schedule with the weight 0.5 instead of one from gradients: its null hypothesis."""

    recipe: Literal["constant"]

    def build(self) -> "Constant":
        """A constant weight with this config's clock."""
        return Constant(self)


class Constant(Recipe):
    """w = 0.5 until T_warm, then (1 - alpha) 0.5 + alpha."""

    def __init__(self, config: ConstantConfig) -> None:
        self.clock = config.clock()

    def alpha(self, step: int) -> float:
        """0 during warm-up, 1 at T_total."""
        return self.clock.alpha(step)

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L)."""
        alpha = self.alpha(step)
        return constant_weight(tokens, (1 - alpha) * 0.5 + alpha)

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """Bidirectional."""
        return constant_weight(tokens, 1.0)

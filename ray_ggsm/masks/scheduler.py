"""Scheduler-based transition from causal to bidirectional, without looking at the data. Paper, Appendix A.4 (b)."""

from typing import Literal

from torch import Tensor

from ray_ggsm.masks.recipe import ScheduledConfig, Stateless, constant_weight
from ray_ggsm.masks.tokens import Tokens


class SchedulerConfig(ScheduledConfig):
    """w = alpha(t) for every future key, growing linearly from 0 at step 0 to 1 at T_total."""

    recipe: Literal["scheduler"]

    def build(self) -> "Scheduler":
        """The recipe."""
        return Scheduler(self.require_total_steps())


class Scheduler(Stateless):
    """The same weight for all future keys, opened on a clock."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def alpha(self, step: int) -> float:
        """t / T_total, at most 1."""
        return min(step / self.total_steps, 1.0)

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L), alpha(t) everywhere."""
        return constant_weight(tokens, self.alpha(step))

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """Bidirectional."""
        return constant_weight(tokens, 1.0)

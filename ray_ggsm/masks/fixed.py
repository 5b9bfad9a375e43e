"""Recipes whose mask never changes: causal (w = 0) and bidirectional (w = 1). Paper, Appendix A.4."""

from typing import Literal

from torch import Tensor

from ray_ggsm.config import Config
from ray_ggsm.masks.recipe import Stateless, constant_weight
from ray_ggsm.masks.tokens import Tokens


class CausalConfig(Config):
    """Every token sees its past only, as in pretraining."""

    recipe: Literal["causal"]

    def build(self) -> "Fixed":
        """The recipe."""
        return Fixed(0.0)


class BidirectionalConfig(Config):
    """Every token sees every token, from the first step on."""

    recipe: Literal["bidirectional"]

    def build(self) -> "Fixed":
        """The recipe."""
        return Fixed(1.0)


class Fixed(Stateless):
    """One weight, at every step and at inference."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def alpha(self, step: int) -> float:
        """There is no journey."""
        return 1.0

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L), constant."""
        return constant_weight(tokens, self.weight)

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """The training mask."""
        return constant_weight(tokens, self.weight)

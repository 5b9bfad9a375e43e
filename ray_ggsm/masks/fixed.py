"""Recipes whose mask never changes: causal, prefix (the Introduction's hybrid), bidirectional. Paper, Appendix A.4."""

from collections.abc import Callable
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
        return Fixed(lambda tokens: constant_weight(tokens, 0.0))


class PrefixConfig(Config):
    """Bidirectional inside the user segment, causal after it."""

    recipe: Literal["prefix"]

    def build(self) -> "Fixed":
        """The recipe: a later key of the user segment is seen, and then the query is in the user segment, too."""
        return Fixed(lambda tokens: tokens.history_BL.float())


class BidirectionalConfig(Config):
    """Every token sees every token, from the first step on."""

    recipe: Literal["bidirectional"]

    def build(self) -> "Fixed":
        """The recipe."""
        return Fixed(lambda tokens: constant_weight(tokens, 1.0))


class Fixed(Stateless):
    """One weight, at every step and at inference."""

    def __init__(self, weight: Callable[[Tokens], Tensor]) -> None:
        self.weight = weight

    def alpha(self, step: int) -> float:
        """There is no journey."""
        return 1.0

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L), the same at every step."""
        return self.weight(tokens)

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """The training mask."""
        return self.weight(tokens)

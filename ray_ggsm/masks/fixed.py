"""Recipes whose mask never changes: oracle, causal, prefix, hybrid_gq, bidirectional.

Paper, Introduction (prefix, called hybrid there), section 5 (oracle) and Appendix A.4.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from torch import Tensor

from ray_ggsm.config import Before
from ray_ggsm.masks.recipe import GlobalJoin, Recipe, RecipeConfig, constant_weight
from ray_ggsm.masks.tokens import Tokens


class OracleConfig(RecipeConfig):
    """The pretrained backbone, causal and untrained."""

    recipe: Literal["oracle"]

    def build(self) -> "Fixed":
        """A causal mask, without training."""
        return Fixed(lambda tokens: constant_weight(tokens, 0.0), trains=False, history_sees_query=False)


class CausalConfig(RecipeConfig):
    """Every token sees its past only, as in the backbone's pretraining."""

    recipe: Literal["causal"]

    def build(self) -> "Fixed":
        """Weight 0 for every future key."""
        return Fixed(lambda tokens: constant_weight(tokens, 0.0), history_sees_query=False)


class PrefixConfig(RecipeConfig):
    """Bidirectional inside the user segment, causal after it."""

    recipe: Literal["prefix"]

    def build(self) -> "Fixed":
        """Weight 1 for future keys of the user segment; their queries are earlier, so they are in the segment, too."""
        return Fixed(lambda tokens: tokens.history_BL.float(), history_sees_query=False)


class HybridGQConfig(RecipeConfig):
    """Causal, with one learnable global query after the history, which is all in its past. Hybrid (c) of Appendix A.4:
    "its attention weights supervise block-level contextual integration without violating causality".
    """

    recipe: Literal["hybrid_gq"]
    joins: Annotated[GlobalJoin, Before("state")] = "blocks"
    """What joins the pooled state, half and half. blocks: the mean states of the blocks (modalities, features),
    weighted by the query's attention to them in the last layer. state: the query's own state."""

    def build(self) -> "Fixed":
        """A causal mask, and a template with the global query."""
        return Fixed(lambda tokens: constant_weight(tokens, 0.0), global_query=self.joins, history_sees_query=False)


class BidirectionalConfig(RecipeConfig):
    """Every token sees every token, from the first step on."""

    recipe: Literal["bidirectional"]

    def build(self) -> "Fixed":
        """Weight 1 for every future key."""
        return Fixed(lambda tokens: constant_weight(tokens, 1.0))


class Fixed(Recipe):
    """The same weight at every step and at inference."""

    def __init__(
        self,
        weight: Callable[[Tokens], Tensor],
        trains: bool = True,
        global_query: GlobalJoin | None = None,
        history_sees_query: bool = True,
    ) -> None:
        self.weight, self.trains, self.global_query = weight, trains, global_query
        self.history_sees_query = history_sees_query

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L), whatever the step."""
        return self.weight(tokens)

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """The training mask."""
        return self.weight(tokens)

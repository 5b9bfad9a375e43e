"""Mask recipes: how the attention mask goes from causal to bidirectional (paper, section 4 and Appendix A.4).

A new recipe is one file, and one line in `MaskConfig` beside its import (README, "Adding a mask recipe").
"""

from typing import Annotated

from pydantic import Field

from ray_ggsm.masks.bias import attention_bias
from ray_ggsm.masks.fixed import BidirectionalConfig, CausalConfig, HybridGQConfig, OracleConfig, PrefixConfig
from ray_ggsm.masks.ggsm import GGSMConfig, HybridMaskConfig
from ray_ggsm.masks.hybrid_mlp import HybridMLPConfig
from ray_ggsm.masks.recipe import Recipe, RecipeConfig, ScheduledConfig
from ray_ggsm.masks.scheduler import ConstantConfig, SchedulerConfig
from ray_ggsm.masks.tokens import Tokens

MaskConfig = Annotated[
    OracleConfig
    | CausalConfig
    | PrefixConfig
    | BidirectionalConfig
    | SchedulerConfig
    | ConstantConfig
    | GGSMConfig
    | HybridMaskConfig
    | HybridMLPConfig
    | HybridGQConfig,
    Field(discriminator="recipe"),
]
"""The config of any recipe; `recipe` in YAML chooses which."""


def with_total_steps(config: MaskConfig, total_steps: int) -> MaskConfig:
    """`config` with T_total set to the length of the training run, where the config leaves it open."""
    if isinstance(config, ScheduledConfig) and config.total_steps is None:
        return config.model_copy(update={"total_steps": total_steps})
    return config


__all__ = ["MaskConfig", "Recipe", "RecipeConfig", "Tokens", "attention_bias", "with_total_steps"]

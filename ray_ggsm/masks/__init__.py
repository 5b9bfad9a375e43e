"""Mask recipes: the attention mask's journey from causal to bidirectional (paper, section 4 and Appendix A.4)."""

from typing import Annotated

from pydantic import Field

from ray_ggsm.masks.bias import attention_bias
from ray_ggsm.masks.fixed import BidirectionalConfig, CausalConfig, PrefixConfig
from ray_ggsm.masks.ggsm import GGSMConfig, HybridMaskConfig
from ray_ggsm.masks.recipe import Recipe, ScheduledConfig
from ray_ggsm.masks.scheduler import ConstantConfig, SchedulerConfig
from ray_ggsm.masks.tokens import Tokens

MaskConfig = Annotated[
    CausalConfig
    | PrefixConfig
    | HybridMaskConfig
    | BidirectionalConfig
    | SchedulerConfig
    | ConstantConfig
    | GGSMConfig,
    Field(discriminator="recipe"),
]


def build(config: MaskConfig) -> Recipe:
    """The recipe that `config` describes."""
    return config.build()


def with_total_steps(config: MaskConfig, total_steps: int) -> MaskConfig:
    """`config` with T_total filled in from the length of the training run, where the config leaves it open."""
    if isinstance(config, ScheduledConfig) and config.total_steps is None:
        return config.model_copy(update={"total_steps": total_steps})
    return config


__all__ = ["MaskConfig", "Recipe", "Tokens", "attention_bias", "build", "with_total_steps"]

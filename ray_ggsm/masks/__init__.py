"""Mask recipes: the attention mask's journey from causal to bidirectional (paper, section 4 and Appendix A.4).

Every file of this folder may hold recipes: whatever derives from `RecipeConfig` and names itself in a field `recipe` is
a valid `mask` setting.
"""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from ray_ggsm.masks.bias import attention_bias
from ray_ggsm.masks.recipe import Recipe, RecipeConfig, ScheduledConfig
from ray_ggsm.masks.tokens import Tokens


def _configs() -> Iterator[type[RecipeConfig]]:
    """The config class of every recipe in this folder, file by file."""
    for module in iter_modules(__path__, prefix=f"{__name__}."):
        for value in vars(import_module(module.name)).values():
            mine = isinstance(value, type) and issubclass(value, RecipeConfig) and value.__module__ == module.name
            if mine and value.model_fields["recipe"].annotation is not str:
                yield value


if TYPE_CHECKING:
    MaskConfig = RecipeConfig
else:
    MaskConfig = Annotated[Union[tuple(_configs())], Field(discriminator="recipe")]  # noqa: UP007


def build(config: RecipeConfig) -> Recipe:
    """The recipe that `config` describes."""
    return config.build()


def with_total_steps(config: RecipeConfig, total_steps: int) -> RecipeConfig:
    """`config` with T_total filled in from the length of the training run, where the config leaves it open."""
    if isinstance(config, ScheduledConfig) and config.total_steps is None:
        return config.model_copy(update={"total_steps": total_steps})
    return config


__all__ = ["MaskConfig", "Recipe", "RecipeConfig", "Tokens", "attention_bias", "build", "with_total_steps"]

"""The README's example of a new recipe is complete: it is executed, validated and used as it stands there."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, get_args

import pytest
import torch

from ray_ggsm import masks
from ray_ggsm.config import Config, InputError, load
from ray_ggsm.masks import MaskConfig, Tokens, attention_bias

SECTION = (Path(__file__).parents[2] / "README.md").read_text().split("## Adding a mask recipe\n")[1].split("\n## ")[0]
FILE, LINE = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The README's file as a module of the package."""
    module = ModuleType("ray_ggsm.masks.even")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(FILE, "README.md", "exec"), module.__dict__)
    return module


def test_the_recipe_is_a_setting_once_the_union_has_it(example: ModuleType, tmp_path: Path) -> None:
    union, discriminator = get_args(MaskConfig)
    longer = union | getattr(example, LINE.strip().removeprefix("| "))

    class Settings(Config):
        mask: Annotated[longer, discriminator]

    file = tmp_path / "config.yaml"
    file.write_text("mask: {recipe: even, weight: 0.3}")
    mask = load(Settings, str(file)).mask
    assert mask == example.EvenConfig(recipe="even", weight=0.3)
    for wrong, sentence in (
        ("weight: 2", "mask.weight: .* less than or equal to 1"),
        ("wieght: 0.3", "did you mean 'weight'"),
    ):
        file.write_text(f"mask: {{recipe: even, {wrong}}}")
        with pytest.raises(InputError, match=sentence):
            load(Settings, str(file))
    file.write_text("mask: {recipe: ggsm}")
    assert load(Settings, str(file)).mask.recipe == "ggsm"  # the others are still there


def test_the_recipe_is_built_and_makes_an_attention_bias(example: ModuleType) -> None:
    recipe = example.EvenConfig(recipe="even", weight=0.25).build()
    valid_BL = torch.tensor([[True, True, True], [True, True, False]])
    first = [[1, 0.25, 0.25], [1, 1, 0.25], [1, 1, 1]]
    second = [[1, 0.25, 0], [1, 1, 0], [0, 0, 1]]
    tokens = Tokens(valid_BL, torch.zeros(2, 3, dtype=torch.int64), valid_BL, 1, 3)
    for weight_BL in (recipe.future_weight(tokens, 7), recipe.inference_weight(tokens)):
        bias_B1LL = attention_bias(weight_BL, valid_BL, torch.float32)
        torch.testing.assert_close(bias_B1LL[:, 0].exp(), torch.tensor([first, second]))


def test_the_line_fits_the_union() -> None:
    """The line looks like its neighbours in the union of `ray_ggsm.masks`."""
    source = Path(masks.__file__).read_text()
    assert LINE.startswith("    | ")
    assert re.search(r"^MaskConfig = Annotated\[\n    \w+\n(    \| \w+\n)+", source, flags=re.MULTILINE)


@pytest.mark.parametrize("method", ["build", "future_weight", "inference_weight"])
def test_a_recipe_without_one_of_its_methods_fails_early(method: str, example: ModuleType) -> None:
    lines = re.sub(rf"    def {method}\(.*?\n        return[^\n]*\n", "", FILE, flags=re.DOTALL)
    assert lines != FILE
    exec(compile(lines, "README.md", "exec"), example.__dict__)
    with pytest.raises(TypeError, match=f"abstract method '?{method}"):
        example.EvenConfig(recipe="even").build()

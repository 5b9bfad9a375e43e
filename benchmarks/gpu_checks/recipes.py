"""User vectors of every mask recipe on the device, against those of the CPU in float32."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from gpu_checks.report import Check, Number
from gpu_checks.setting import RECIPES, Dtype, Setting, embedder, least_cosine, like, reference

LIMITS: dict[Dtype, tuple[float, float]] = {"float32": (5e-5, 0.99999), "bfloat16": (0.04, 0.99)}
"""Greatest difference of any element, least cosine of any row; vectors have length 1 and are centred."""


def checks(setting: Setting) -> Iterator[Check]:
    """One check per recipe."""
    for name in RECIPES:
        yield Check(f"{name}: user vectors as on the CPU in float32", partial(_compare, setting, name))


def _compare(setting: Setting, name: str) -> list[Number]:
    rows, known = setting.rows(), reference(setting, name)
    found = {}
    for dtype in LIMITS:
        bundle = like(known, setting, "sdpa", dtype, setting.device)
        found[dtype] = embedder(bundle, setting.sizes.cut_tokens)(rows).vectors
    expected_BD = embedder(known, 10**6)(rows).vectors
    numbers = []
    for dtype, (difference, cosine) in LIMITS.items():
        greatest = float(np.abs(found[dtype] - expected_BD).max())
        numbers.append(Number(f"{dtype}: greatest difference", greatest, at_most=difference))
        numbers.append(Number("least cosine", least_cosine(found[dtype], expected_BD), at_least=cosine))
    return numbers

"""Rows of different lengths as one padded batch, against each row alone, which has no padding.

Legend: B rows, D width.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from gpu_checks.report import Check, Number
from gpu_checks.setting import Attention, Dtype, Setting, like, pooled, reference
from ray_ggsm.model.saved import EncoderBundle

LIMITS: dict[Dtype, float] = {"float32": 5e-5, "bfloat16": 0.02}
"""Greatest difference; vectors have length 1 and are centred."""
RECIPES = ("bidirectional", "ggsm", "scheduler, window", "hybrid_gq")
"""Open and causal without a mask where there is no padding; a weight per key; one per query and key."""


def checks(setting: Setting) -> Iterator[Check]:
    """One check per backend and dtype; FlexAttention, which is compiled for every kind of shape, with one recipe."""
    claim = "a padded batch gives the vectors of its rows alone"
    for dtype in LIMITS:
        yield Check(
            f"{claim} (sdpa, {dtype}; {'; '.join(RECIPES)})", partial(_compare, setting, "sdpa", dtype, RECIPES)
        )
    yield Check(f"{claim} (flex, float32; ggsm)", partial(_compare, setting, "flex", "float32", ("ggsm",)))


def _compare(setting: Setting, attention: Attention, dtype: Dtype, names: Sequence[str]) -> list[Number]:
    worst, where = -1.0, ""
    for name in names:
        bundle = like(reference(setting, name), setting, attention, dtype, setting.device)
        with torch._dynamo.config.patch(recompile_limit=64):  # many shapes on purpose
            difference = _difference(bundle, setting)
        if not difference <= worst:  # NaN counts as the worst
            worst, where = difference, name
    return [Number(f"greatest difference ({where})", worst, at_most=LIMITS[dtype])]


@torch.no_grad()
def _difference(bundle: EncoderBundle, setting: Setting) -> float:
    rows = setting.rows(5, seed=3)
    together_BD = pooled(bundle, rows)
    alone_BD = torch.cat([pooled(bundle, rows.slice(i, 1)) for i in range(len(rows))])
    vectors = [bundle.encoder.vectors(states_BD, "user") for states_BD in (together_BD, alone_BD)]
    return (vectors[0] - vectors[1]).abs().max().item()

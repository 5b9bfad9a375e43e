"""Speed of training steps: per attention backend, and GG-SM over plain bidirectional."""

import statistics
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import torch

from gpu_checks.clock import seconds
from gpu_checks.embedding import rate
from gpu_checks.made_up import user_rows
from gpu_checks.report import Check, Number, SkippedError
from gpu_checks.setting import Attention, Setting, encoder, recipe, trainer
from ray_ggsm.training.loop import Trainer

STEPS = 1000
"""Of the run that the timed steps stand at the beginning of, in the mask's warm-up."""
ROUNDS = 3
"""Timed steps over the setting's rounds."""


def checks(setting: Setting) -> Iterator[Check]:
    """Backends, then recipes."""
    backends: tuple[Attention, ...] = ("sdpa", "eager", "flex")
    for attention in backends:
        yield Check(f"training, GG-SM, {setting.sizes.dtype}, {attention}", partial(_speed, setting, attention))
    yield Check("a GG-SM step over a bidirectional one (sdpa)", partial(_recipes, setting))


def _rows(setting: Setting) -> pa.Table:
    return user_rows(setting.sizes.pairs, setting.sizes.speed_events // 8, setting.sizes.speed_events, 16)


def _trainer(setting: Setting, name: str, attention: Attention) -> Trainer:
    sizes = setting.sizes
    bundle = encoder(setting.large, recipe(name, STEPS), attention, setting.sizes.dtype, setting.device)
    budget = sizes.tokens_per_micro_batch
    return trainer(bundle, _rows(setting), steps=STEPS, tokens_per_micro_batch=budget, graph_tokens=budget)


def _speed(setting: Setting, attention: Attention) -> list[Number]:
    if attention == "flex" and not setting.cuda:
        raise SkippedError("FlexAttention has no backward pass on the CPU")
    made, rows = _trainer(setting, "ggsm", attention), _rows(setting)
    compiled = _graphs()
    first = made.step(rows)
    step = partial(made.step, rows)
    taken = statistics.median(seconds(step, setting.device) for _ in range(ROUNDS * setting.sizes.rounds))
    flops = first["utilisation"] * first["seconds"] * made.peak
    numbers = [
        Number("tokens/s", first["tokens"] / taken),
        Number("pairs/s", len(rows) / taken),
        Number("share of the matrix products", flops / taken / rate(setting)),
    ]
    if attention == "flex":
        numbers.append(Number("graphs compiled", _graphs() - compiled))
    return numbers


def _recipes(setting: Setting) -> list[Number]:
    rows = _rows(setting)
    trainers = {name: _trainer(setting, name, "sdpa") for name in ("bidirectional", "ggsm")}
    ratios = []
    for round_ in range(ROUNDS * setting.sizes.rounds + 1):
        taken = {name: seconds(partial(made.step, rows), setting.device) for name, made in trainers.items()}
        if round_:
            ratios.append(taken["ggsm"] / taken["bidirectional"])
    return [Number("times", statistics.median(ratios))]


def _graphs() -> int:
    """How many graphs torch.compile has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

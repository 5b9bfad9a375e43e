"""Peak memory: a training step with gradient caching at two batch sizes, and embedding at two numbers of rows."""

from collections.abc import Iterator
from functools import partial

from gpu_checks.clock import peak_bytes
from gpu_checks.made_up import user_rows
from gpu_checks.report import Check, Number, SkippedError
from gpu_checks.setting import Setting, embedder, encoder, recipe, trainer

TIMES = 4
"""Rows of the larger run over those of the smaller."""
GROWTH = 1.1
MIB = 2**20


def checks(setting: Setting) -> Iterator[Check]:
    """Training, then embedding."""
    pairs = setting.sizes.pairs
    yield Check(f"peak memory of a step with {TIMES} x {pairs} pairs over {pairs}", partial(_training, setting))
    yield Check(f"peak memory of embedding with {TIMES} x the rows", partial(_embedding, setting))


def _training(setting: Setting) -> list[Number]:
    sizes = setting.sizes
    bundle = encoder(setting.large, recipe("ggsm", 1000), "sdpa", setting.sizes.dtype, setting.device)
    # rows of one length, so that both batches are made of the same micro-batches
    events = sizes.speed_events
    batches = [user_rows(n, events, events, events, seed=n) for n in (sizes.pairs, TIMES * sizes.pairs)]
    budget = sizes.tokens_per_micro_batch
    made = trainer(bundle, batches[0], steps=1000, tokens_per_micro_batch=budget, graph_tokens=budget)
    made.step(batches[0])  # the optimiser's state comes to be
    small, large = (peak_bytes(partial(made.step, rows), setting.device) for rows in batches)
    return _growth(small, large)


def _embedding(setting: Setting) -> list[Number]:
    if not setting.cuda:
        raise SkippedError("measured on a GPU only")
    sizes = setting.sizes
    users = sizes.users // TIMES
    embed = embedder(
        encoder(setting.large, recipe("ggsm"), "sdpa", setting.sizes.dtype, setting.device), sizes.tokens_per_batch
    )
    batches = [user_rows(n, sizes.speed_events, sizes.speed_events, 1) for n in (users, TIMES * users)]
    embed(batches[0])
    small, large = (peak_bytes(partial(embed, rows), setting.device) for rows in batches)
    return _growth(small, large)


def _growth(small: int, large: int) -> list[Number]:
    return [
        Number("ratio", large / small, at_most=GROWTH),
        Number("MiB for the smaller", small / MIB),
        Number("for the larger", large / MIB),
    ]

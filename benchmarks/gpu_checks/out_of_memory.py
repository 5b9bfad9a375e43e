"""Embedding where a batch does not fit: it is halved until it does, and the vectors stay the same.

On a GPU the process gets less of the card than the batch needs; on the CPU the forward pass refuses large batches.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch

from gpu_checks.clock import peak_bytes
from gpu_checks.made_up import user_rows
from gpu_checks.report import Check, Number, tidy
from gpu_checks.setting import Setting, embedder, encoder, pooled, recipe
from ray_ggsm.model.batch import Batch
from ray_ggsm.model.encoder import UserEncoder

PARTS = 16
"""Small batches in the large one."""
ROOM = 3
"""Memory that is left, in what a small batch needs."""
LIMIT = 2e-4
MIB = 2**20


def checks(setting: Setting) -> Iterator[Check]:
    """One check."""
    yield Check(f"a batch of {PARTS} x the tokens that fit comfortably gives the same vectors", partial(_run, setting))


def _run(setting: Setting) -> list[Number]:
    sizes = setting.sizes
    small = sizes.tokens_per_micro_batch
    bundle = encoder(setting.large, recipe("bidirectional"), "sdpa", "float32", setting.device)
    events = sizes.speed_events
    tokens_per_row = 2 * events + 32
    # of nearly one length, so that little padding is saved by cutting them into smaller batches
    rows = user_rows(PARTS * small // tokens_per_row, events - 1, events, 1)
    # centred: else all vectors lie so close together that one could pass for another
    bundle.encoder.centre_user_D.copy_(pooled(bundle, rows.slice(0, 8)).mean(dim=0))
    embed = embedder(bundle, small)
    expected_BD = embed(rows).vectors
    needed = peak_bytes(partial(embed, rows), setting.device)
    embed.tokens_per_batch = PARTS * small
    tidy()
    before = torch.cuda.memory_allocated(setting.device) if setting.cuda else 0
    refused = None if setting.cuda else ROOM * small
    with _attempts(bundle.encoder, refused) as failed, _memory_of(ROOM * needed, setting.device):
        found_BD = embed(rows).vectors
    tidy()
    left = torch.cuda.memory_allocated(setting.device) - before if setting.cuda else 0
    return [
        Number("greatest difference", float(np.abs(found_BD - expected_BD).max()), at_most=LIMIT),
        Number("batches that did not fit", len(failed), at_least=1),
        Number("greatest of them, tokens with padding", max(failed, default=0)),
        Number("MiB left behind", left / MIB, at_most=64),
    ]


@contextmanager
def _attempts(encoder: UserEncoder, limit: int | None) -> Iterator[list[int]]:
    """Padded tokens of every batch that does not fit; more than `limit` of them never do."""
    failed: list[int] = []
    forward: Callable[..., torch.Tensor] = encoder.forward

    def watched(batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        tokens = batch.layout.tokens.valid_BL.numel()
        try:
            if limit is not None and tokens > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(batch, weight)
        except torch.OutOfMemoryError:
            failed.append(tokens)
            raise

    encoder.forward = watched  # type: ignore[method-assign]
    try:
        yield failed
    finally:
        del encoder.forward


@contextmanager
def _memory_of(free: int, device: torch.device) -> Iterator[None]:
    """Let the process have so many bytes of a GPU beyond what it holds now."""
    if device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    allowed = min(1.0, (torch.cuda.memory_reserved(device) + free) / total)
    torch.cuda.set_per_process_memory_fraction(allowed, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)

"""The other workers of a training run, which the loop gets as an argument and never looks up.

Every worker computes the loss of the whole batch from gathered states. Only the worker's states carry gradients, so
parameter gradients summed over workers are exactly those of one worker with the whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This worker's place among all workers."""

    rank: int
    size: int
    """Number of workers."""
    gather: Callable[[Tensor], Tensor]
    """(b, ...) -> (B, ...): the rows of all workers in rank order; this worker's rows keep their gradient."""
    reduce: Callable[[Tensor], Tensor]
    """A tensor -> its sum over workers, on each of them."""

    def share(self, rows: int) -> tuple[int, int]:
        """Offset and length of this worker's part of `rows` rows."""
        first, last = (round(rows * r / self.size) for r in (self.rank, self.rank + 1))
        return first, last - first


ALONE = Workers(rank=0, size=1, gather=lambda rows: rows, reduce=lambda tensor: tensor)


def process_group() -> Workers:
    """The workers of torch's default process group (gloo, NCCL), which must be initialised."""
    return Workers(dist.get_rank(), dist.get_world_size(), _gather, _reduce)


def _gather(rows: Tensor) -> Tensor:
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    padded = rows.new_zeros(int(max(counts)), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    kept = [part[: int(n)] for part, n in zip(parts, counts, strict=True)]
    kept[dist.get_rank()] = rows
    return torch.cat(kept)


def _reduce(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor


def draws_of_rows(rows: int, n: int, workers: Workers, seed: int, device: torch.device) -> Tensor:
    """`n` random numbers in [0, 1) for each of this worker's rows, float64 (rows, n), on a device.

    They depend on the row's place in the global batch, not on the number of workers or the device.
    """
    counts = workers.gather(torch.tensor([rows], device=device))
    share_BX = torch.rand(int(counts.sum()), n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    first = int(counts[: workers.rank].sum())
    return share_BX[first : first + rows].to(device)

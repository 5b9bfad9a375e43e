"""What the training loop needs to know of other workers: given as an argument, never sniffed.

The loss of the whole batch is computed on every worker from gathered states. Only a worker's own states carry
gradients, so summing parameter gradients over workers gives exactly the gradients of one worker with the whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Workers:
    """This worker's place among all."""

    rank: int
    size: int
    gather: Callable[[Tensor], Tensor]
    """(b, ...) -> (B, ...): all workers' rows in rank order; this worker's own rows keep their gradient."""
    reduce: Callable[[Tensor], Tensor]
    """The sum over workers, on each of them."""


ALONE = Workers(rank=0, size=1, gather=lambda rows: rows, reduce=lambda tensor: tensor)

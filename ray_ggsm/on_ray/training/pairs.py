"""Training rows through Ray tasks, which read ahead of the training workers; a worker holds a few steps only.

A task reads the row groups behind a range of steps and returns this worker's rows of each. What a step contains is
decided by `ray_ggsm.training.pairs` alone, so the stream can start at any step.

No Ray Data here: its executor runs as a thread of the process that reads, and while what it read waits for the next
step, it looks for news without a pause. That takes a whole core, and the interpreter's lock, from the training loop
(docs/benchmarks.md).
"""

from collections import deque
from collections.abc import Iterator

import pyarrow as pa
import ray

from ray_ggsm.training.pairs import Mixed, Pairs, slices
from ray_ggsm.training.workers import Workers

AHEAD = 2
"""Ranges of steps that are read at a time, for each training worker."""


def stream(pairs: Pairs | Mixed, first: int, last: int, workers: Workers) -> Iterator[pa.Table]:
    """This worker's rows of the global batches of steps [first, last), one table per step."""
    # readers wait for storage, not for processors: they must not starve where training holds all of them
    read, shared = ray.remote(slices).options(num_cpus=0), ray.put(pairs)
    starts = iter(range(first, last, pairs.steps_per_window))
    running: deque[ray.ObjectRef] = deque()
    while True:
        while len(running) < AHEAD and (start := next(starts, None)) is not None:
            end = min(start + pairs.steps_per_window, last)
            running.append(read.remote(shared, start, end, workers.rank, workers.size))
        if not running:
            return
        yield from ray.get(running.popleft())

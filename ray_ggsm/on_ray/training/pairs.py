"""Training rows through Ray Data: tasks of the cluster read ahead of the training workers, which hold a few steps only.

A dataset of step ranges becomes a stream of rows: each task reads the row groups behind one range and yields this
worker's rows of its steps, in order. What a step contains is decided by `ray_ggsm.training.pairs` alone, so the stream
can start at any step.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import TaskPoolStrategy

from ray_ggsm.training.pairs import Pairs
from ray_ggsm.training.workers import Workers

READERS = 2
"""Tasks that read at a time, for each training worker."""


def stream(pairs: Pairs, first: int, last: int, workers: Workers) -> Iterator[pa.Table]:
    """This worker's rows of the global batches of steps [first, last), one table per step."""
    if first >= last:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    starts = range(first, last, pairs.steps_per_window)
    ranges = [pa.table({"first": [start], "last": [min(start + starts.step, last)]}) for start in starts]

    rank, size = workers.rank, workers.size  # without `workers` itself, whose functions load torch

    def read(steps: pa.Table) -> Iterator[pa.Table]:
        for step in range(steps["first"][0].as_py(), steps["last"][0].as_py()):
            rows = pairs.batch(step, rank, size)
            yield rows.append_column("step", pa.array(np.full(len(rows), step)))

    # readers wait for storage, not for processors: they must not starve where training holds all of them
    rows = ray.data.from_arrow(ranges).map_batches(
        read, batch_format="pyarrow", batch_size=1, num_cpus=0, compute=TaskPoolStrategy(size=READERS)
    )
    blocks = rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    yield from _by_step(blocks)


def _by_step(blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of one step each, from blocks that may end inside a step."""
    rest: list[pa.Table] = []
    for block in blocks:
        step_b = block["step"].to_numpy()
        starts = [0, *(np.flatnonzero(np.diff(step_b)) + 1).tolist(), len(block)]
        for start, stop in pairwise(starts):
            part = block.slice(start, stop - start)
            if rest and rest[0]["step"][0] != part["step"][0]:
                yield _joined(rest)
                rest = []
            rest.append(part)
    yield _joined(rest)


def _joined(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts).drop_columns("step").combine_chunks()

"""What the reading of training rows costs the training loop: plain Ray tasks, and a stream of Ray Data, as it was.

    python benchmarks/training_rows.py [--steps 100] [--rows 20000]

Rows of some 20 KB are read in batches of 256, and Ray's object store holds fewer steps than there are, as it is with
the rows of real users. A step is Python and small matrix products, as those of a small encoder
are. Prints the seconds of a step for each way of reading, one after the other three times in turns, against the same
steps with rows that are there before.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from ray.data import TaskPoolStrategy

from ray_ggsm.on_ray.training.pairs import stream
from ray_ggsm.training.pairs import Pairs
from ray_ggsm.training.workers import ALONE

BATCH, NUMBERS = 256, 2500


def through_ray_data(pairs: Pairs, steps: int) -> Iterator[pa.Table]:
    """The rows of each step, as a dataset of step ranges gives them."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    starts = range(0, steps, pairs.steps_per_window)
    ranges = [pa.table({"first": [start], "last": [min(start + starts.step, steps)]}) for start in starts]

    def read(described: pa.Table) -> Iterator[pa.Table]:
        for step in range(described["first"][0].as_py(), described["last"][0].as_py()):
            yield pairs.batch(step)

    rows = ray.data.from_arrow(ranges).map_batches(
        read, batch_format="pyarrow", batch_size=1, num_cpus=0, compute=TaskPoolStrategy(size=2)
    )
    yield from rows.iter_batches(batch_size=BATCH, batch_format="pyarrow", prefetch_batches=1)


def step(weight: torch.Tensor) -> None:
    """Some 0.2 s of small operations."""
    state = torch.ones(256, 128)
    for _ in range(1500):
        state = torch.tanh(state @ weight)


def seconds(batches: Iterator[pa.Table], steps: int) -> float:
    """Seconds of a step, without the first ones."""
    weight, times = torch.randn(128, 128) / 12, []
    for _ in range(steps):
        start = time.perf_counter()
        next(batches)
        step(weight)
        times.append(time.perf_counter() - start)
    return statistics.fmean(times[steps // 5 :])


def main() -> None:
    """Measure all ways in turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as directory:
        rng = np.random.default_rng(0)
        ids = pa.array([str(i) for i in range(options.rows)])
        numbers = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=options.rows * NUMBERS)), NUMBERS)
        pq.write_table(
            pa.table({"user_id": ids, "numbers": numbers}), Path(directory) / "a.parquet", row_group_size=500
        )
        pairs = Pairs(directory, BATCH, 0)
        before = pairs.batch(0)
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=400_000_000)
        ways: dict[str, Callable[[], Iterator[pa.Table]]] = {
            "rows that are there before": lambda: iter([before] * options.steps),
            "plain Ray tasks": lambda: stream(pairs, 0, options.steps, ALONE),
            "a stream of Ray Data": lambda: through_ray_data(pairs, options.steps),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(3):
            for name, batches in ways.items():
                found[name].append(seconds(batches(), options.steps))
        base = statistics.median(found["rows that are there before"])
        for name, each in found.items():
            middle, told = statistics.median(each), ", ".join(f"{value:.3f}" for value in each)
            print(f"{name:28} {middle:.3f} s a step ({told}), {middle / base:.2f}")
        ray.shutdown()


if __name__ == "__main__":
    main()

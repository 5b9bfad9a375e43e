"""Training pairs from Parquet, in a shuffled order that is a function of the seed alone.

Row groups are permuted anew each epoch and read in windows; the rows of a window are shuffled together. So any step's
batch can be found without reading what came before it (resume), every worker takes its slice of the same global batch
(elastic), and no more than two windows are in memory.
"""

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError


class Pairs:
    """Random access to the global batch of any step."""

    def __init__(self, location: str, batch_size: int, seed: int, window_groups: int = 8) -> None:
        """Read the footers of the Parquet files below `location`.

        Raises:
            InputError: there are fewer rows than one batch needs.
        """
        self.location, self.batch_size, self.seed, self.window_groups = location, batch_size, seed, window_groups
        self.groups: list[tuple[str, int, int]] = []
        for file in storage.list_files(location, ".parquet"):
            with self._open(file) as parquet:
                sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            self.groups += [(file, i, rows) for i, rows in enumerate(sizes)]
        self.rows = sum(rows for _, _, rows in self.groups)
        if self.rows < batch_size:
            raise InputError(
                f"{location}: {self.rows} training rows, less than a batch of {batch_size}; lower training.batch_size"
            )
        self._window = lru_cache(maxsize=2)(self._read_window)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass; the rows left over differ from epoch to epoch."""
        return self.rows // self.batch_size

    def batch(self, step: int, rank: int = 0, workers: int = 1) -> pa.Table:
        """Worker `rank`'s rows of the global batch of `step`; the workers' slices differ by one row at most."""
        epoch, index = divmod(step, self.steps_per_epoch)
        bounds = [round(self.batch_size * r / workers) for r in (rank, rank + 1)]
        start, stop = (index * self.batch_size + b for b in bounds)
        parts = []
        for window, (first, last) in enumerate(self._bounds(epoch)):
            if first < stop and start < last:
                table = self._window(epoch, window)
                parts.append(table.slice(max(start - first, 0), min(stop, last) - max(start, first)))
        return pa.concat_tables(parts).combine_chunks()

    def head(self, n: int) -> pa.Table:
        """The first rows as they are stored, at most `n`; the same on every worker."""
        tables, rows = [], 0
        for file, group, size in self.groups:
            if rows >= n:
                break
            with self._open(file) as parquet:
                tables.append(parquet.read_row_group(group))
            rows += size
        return pa.concat_tables(tables).slice(0, n).combine_chunks()

    def _order(self, epoch: int) -> list[tuple[str, int, int]]:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.groups))
        return [self.groups[i] for i in order]

    def _bounds(self, epoch: int) -> list[tuple[int, int]]:
        order = self._order(epoch)
        ends = np.cumsum([rows for _, _, rows in order]).tolist()
        starts = [0, *ends[:-1]]
        cuts = range(0, len(order), self.window_groups)
        return [(starts[c], ends[min(c + self.window_groups, len(order)) - 1]) for c in cuts]

    def _read_window(self, epoch: int, window: int) -> pa.Table:
        chosen = self._order(epoch)[window * self.window_groups : (window + 1) * self.window_groups]
        tables = []
        for file, group, _ in chosen:
            with self._open(file) as parquet:
                tables.append(parquet.read_row_group(group))
        table = pa.concat_tables(tables)
        return table.take(pa.array(np.random.default_rng((self.seed, epoch, window)).permutation(len(table))))

    def _open(self, file: str) -> pq.ParquetFile:
        fs, path = storage.arrow_filesystem(file)
        return pq.ParquetFile(path, filesystem=fs)

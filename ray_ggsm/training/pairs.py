"""Training pairs from Parquet, in a shuffled order that depends on the seed alone.

Row groups are divided into lanes, and every global batch takes its share of each lane. A worker's slice of the batch is
a few lanes, so the worker reads only those, and the batches are the same for any number of workers. Within a lane, row
groups are permuted in each epoch and read in windows, and the rows of a window are shuffled together. So the batch of
any step can be read without those before it (resume), and only a few windows are in memory.

An epoch ends when the shortest lane has no whole share left; the rows left over differ from epoch to epoch.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.training.labelled import open_parquet, read_group

Group = tuple[str, int, int]
"""File, index of the row group in the file, number of its rows."""


class Pairs:
    """Random access to the global batch of any step."""

    def __init__(
        self, location: str, batch_size: int, seed: int, window_groups: int = 8, lane_groups: int = 32, lanes: int = 16,
        *, labels: str | None = None,
    ) -> None:  # fmt: skip
        """Read the footers of the Parquet files below `location`.

        Args:
            location: directory of Parquet files.
            batch_size: rows of the global batch.
            seed: seed of the order.
            window_groups: number of row groups that are shuffled together.
            lane_groups: smallest number of row groups in a lane; with many of them, lanes are about equally long.
            lanes: largest number of lanes.
            labels: directory of the rows' labels, which then stand beside them; None: without.

        Raises:
            InputError: there are fewer rows than one batch needs.
        """
        self.location, self.batch_size, self.seed, self.window_groups = location, batch_size, seed, window_groups
        self.labels = labels
        self.groups = groups_of(location)
        self.rows = sum(rows for _, _, rows in self.groups)
        if self.rows < batch_size:
            raise InputError(
                f"{location}: {self.rows} training rows, less than a batch of {batch_size}; lower training.batch_size"
            )
        n = max(1, min(lanes, batch_size, len(self.groups) // lane_groups))
        largest_first = sorted(self.groups, key=lambda group: -group[2])
        self._divide(largest_first, n)
        while self.steps_per_epoch == 0:  # a lane has fewer rows than its share
            n -= 1
            self._divide(largest_first, n)
        self._windows: dict[tuple[int, int, int], pa.Table] = {}
        """(epoch, lane, window) -> rows of the windows read last, at most two per lane."""

    def _divide(self, groups: list[Group], n: int) -> None:
        """Divide the row groups into n lanes."""
        self.lanes = [groups[lane::n] for lane in range(n)]
        self.bounds = [round(self.batch_size * lane / n) for lane in range(n + 1)]
        """First row of each lane's share of the global batch, and the batch's end."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch."""
        shares = np.diff(self.bounds).tolist()
        return min(sum(g[2] for g in lane) // share for lane, share in zip(self.lanes, shares, strict=True))

    def batch(self, step: int, rank: int = 0, workers: int = 1) -> pa.Table:
        """Worker `rank`'s rows of the global batch of `step`; the workers' slices differ by one row at most."""
        epoch, index = divmod(step, self.steps_per_epoch)
        first, last = (round(self.batch_size * r / workers) for r in (rank, rank + 1))
        parts: list[pa.Table] = []
        for lane, (low, high) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            start, stop = max(first, low), min(last, high)
            if start < stop:
                offset = index * (high - low) - low
                parts += self._lane_rows(epoch, lane, offset + start, offset + stop)
        return pa.concat_tables(parts).combine_chunks()

    @property
    def steps_per_window(self) -> int:
        """About the number of consecutive steps that the windows of one step serve."""
        rows = min(sum(g[2] for g in lane[: self.window_groups]) for lane in self.lanes)
        return max(1, rows * len(self.lanes) // self.batch_size)

    def _lane_rows(self, epoch: int, lane: int, start: int, stop: int) -> Iterator[pa.Table]:
        """Rows [start, stop) of a lane in this epoch's order."""
        order, first = self._order(epoch, lane), 0
        for window in range(0, len(order), self.window_groups):
            end = first + sum(rows for _, _, rows in order[window : window + self.window_groups])
            if first < stop and start < end:
                table = self._window(epoch, lane, window)
                yield table.slice(max(start - first, 0), min(stop, end) - max(start, first))
            first = end

    def _order(self, epoch: int, lane: int) -> list[Group]:
        groups = self.lanes[lane]
        return [groups[i] for i in np.random.default_rng((self.seed, epoch, lane)).permutation(len(groups))]

    def _window(self, epoch: int, lane: int, window: int) -> pa.Table:
        key = epoch, lane, window
        if key not in self._windows:
            if len(self._windows) == 2 * len(self.lanes):
                del self._windows[next(iter(self._windows))]
            self._windows[key] = self._read_window(*key)
        return self._windows[key]

    def _read_window(self, epoch: int, lane: int, window: int) -> pa.Table:
        chosen = self._order(epoch, lane)[window : window + self.window_groups]
        table = pa.concat_tables([read_group(file, group, self.labels) for file, group, _ in chosen])
        return table.take(pa.array(np.random.default_rng((self.seed, epoch, lane, window)).permutation(len(table))))


class Mixed:
    """Batches that hold pairs of several sources: those of the first, then those of the next."""

    def __init__(self, sources: Sequence[Pairs]) -> None:
        """Take the sources; each gives as many rows as its own batch has."""
        self.sources = tuple(sources)

    @property
    def steps_per_window(self) -> int:
        """As in `Pairs`."""
        return min(source.steps_per_window for source in self.sources)

    def batch(self, step: int, rank: int = 0, workers: int = 1) -> pa.Table:
        """As in `Pairs`; a column that a source does not have is null in its rows."""
        tables = [source.batch(step, rank, workers) for source in self.sources]
        return pa.concat_tables(tables, promote_options="default").combine_chunks()


def training_pairs(
    behaviour: str, questions: str | None, batch_size: int, asked: int, seed: int, labels: str | None
) -> Pairs | Mixed:
    """What is trained on: behaviour pairs, query-answer pairs, or both.

    Args:
        behaviour: location of the behaviour pairs.
        questions: location of the query-answer pairs; None: there are none.
        batch_size: rows of the global batch.
        asked: how many of them are query-answer pairs.
        seed: of the order.
        labels: of the behaviour pairs, as in `Pairs`.
    """
    sources = [Pairs(behaviour, batch_size - asked, seed, labels=labels)] if asked < batch_size else []
    if questions is not None:
        sources.append(Pairs(questions, asked, seed))
    return sources[0] if len(sources) == 1 else Mixed(sources)


def slices(pairs: Pairs | Mixed, first: int, last: int, rank: int, workers: int) -> list[pa.Table]:
    """Worker `rank`'s rows of the global batches of steps [first, last), one table per step."""
    return [pairs.batch(step, rank, workers) for step in range(first, last)]


def head(location: str, n: int, labels: str | None = None) -> pa.Table:
    """The first rows below `location` as they are stored, at most `n`; `labels` as in `Pairs`.

    Raises:
        InputError: there are none.
    """
    tables, rows = [], 0
    for file, group, size in groups_of(location):
        if rows >= n:
            break
        tables.append(read_group(file, group, labels))
        rows += size
    if not tables:
        raise InputError(f"{location}: there are no rows; were they moved or removed since the job that wrote them?")
    return pa.concat_tables(tables).slice(0, n).combine_chunks()


def row_groups(location: str) -> list[tuple[str, int, int]]:
    """File name, index and number of rows of each row group below `location`; they identify a snapshot of the data."""
    return [(file.rsplit("/", 1)[-1], group, rows) for file, group, rows in groups_of(location)]


def groups_of(location: str) -> list[Group]:
    """The row groups below `location`, file by file."""
    groups: list[Group] = []
    for file in storage.list_files(location, ".parquet"):
        with open_parquet(file) as parquet:
            groups += [(file, i, parquet.metadata.row_group(i).num_rows) for i in range(parquet.num_row_groups)]
    return groups

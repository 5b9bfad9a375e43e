"""User rows that a team made itself (Parquet files in any order), laid out by user: one shuffle on Ray tasks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ray

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.layout import Layout
from ray_ggsm.building.shuffle import read_part, write_part
from ray_ggsm.config import InputError, NotNow
from ray_ggsm.data.chunks import Chunk, plan_chunks
from ray_ggsm.data.definition import RowDefinition
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.model.description import SavedEncoder

ROWS_PER_TASK = 131_072
"""Rows that one task reads, and that one task writes."""
FileState = tuple[str, int, str]
"""A file, its size in bytes, and its entity tag or modification time."""


@dataclass(frozen=True)
class GivenRows:
    """Files of user rows."""

    name: str
    """As the table's history tells it."""
    chunks: Sequence[Chunk]
    state: Sequence[FileState]
    """State of the files before anything was read from them."""

    @classmethod
    def of(
        cls,
        name: str,
        files: Sequence[str],
        encoder: SavedEncoder,
        definition: RowDefinition | None,
        config: EncodingConfig,
    ) -> "GivenRows":
        """Files that an encoder can read; raises like `plan_chunks`, and InputError where they have no row."""
        state, description = file_state(files), encoder.description
        wanted, features = definition.digest if definition else None, len(description.feature_names)
        chunks = plan_chunks(files, config.rows_per_chunk, description.modality_names, features, wanted)
        if not chunks:
            raise InputError(f"rows: {name}: there is no row in {len(files):,} files; nothing was published")
        return cls(name, chunks, state)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(chunk.rows for chunk in self.chunks)

    def lay_out(self, build: Build, previous: Mapping[int, Sequence[str]], version: int) -> Layout:
        """Lay the rows out by bucket.

        Args:
            build: the build.
            previous: bucket -> data files with vectors that may be kept.
            version: version that these are of.

        Raises:
            InputError: a file cannot be read.
            NotNow: one has changed meanwhile.
        """
        parts = max(1, min(build.buckets, -(-self.rows // ROWS_PER_TASK)))
        read = ray.remote(num_cpus=1, num_returns=1 + parts)(read_part)
        write = ray.remote(num_cpus=1)(write_part)
        found = [read.remote(batch, build, parts) for batch in _batches(self.chunks)]
        place = storage.join(build.rows, f"on-{version}")
        tasks = []
        for part in range(parts):
            old = [file for bucket, files in previous.items() if bucket % parts == part for file in files]
            file = storage.join(place, f"part-{part:05d}.parquet")
            tasks.append(write.remote(build, file, old, *(each[1 + part] for each in found)))
        laid_out = tuple(each for task in ray.get(tasks) for each in task)
        rejected = sum(ray.get([each[0] for each in found]))
        self.check_unchanged()
        return Layout(laid_out, rejected, version)

    def check_unchanged(self) -> None:
        """Refuse input that changed since it was planned: rows that arrive meanwhile would be missed."""
        if file_state([file for file, *_ in self.state]) != list(self.state):
            raise NotNow(f"rows: {self.name} changed while it was read; nothing was published; start again")


def _batches(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    rows = 0
    for chunk in chunks:
        if batch and rows + chunk.rows > ROWS_PER_TASK:
            yield batch
            batch, rows = [], 0
        batch.append(chunk)
        rows += chunk.rows
    if batch:
        yield batch


def file_state(files: Sequence[str]) -> list[FileState]:
    """The state of files.

    Raises:
        InputError: one is gone.
    """
    states = []
    for file in files:
        fs, path = storage.filesystem(file)
        fs.invalidate_cache()
        try:
            info = fs.info(path)
        except FileNotFoundError:
            raise InputError(f"rows: {file} was removed while it was read; nothing was published") from None
        states.append((file, info["size"], storage.write_mark(info)))
    return states

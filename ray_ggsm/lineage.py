"""Which datasets a job reads and writes: noted where they are opened and published, told where the job ends.

Nothing is kept unless somebody collects it, which `ray_ggsm.cli.lineage` does for OpenLineage. Only the job's own
process notes, none of its tasks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dataset:
    """A table, a directory or files."""

    location: str
    """Where it lies; of files, a pattern."""
    version: str | None = None
    """Its version, or digest."""
    columns: tuple[tuple[str, str], ...] = ()
    """Name and type of each column, where they are known."""
    rows: int | None = None
    """Rows that were written, where they are counted."""


@dataclass
class Noted:
    """What a job has read and written so far: location -> dataset."""

    inputs: dict[str, Dataset] = field(default_factory=dict)
    outputs: dict[str, Dataset] = field(default_factory=dict)

    @property
    def others(self) -> list[Dataset]:
        """Inputs that the job did not write itself."""
        own = tuple(f"{location}/" for location in self.outputs)
        return [each for place, each in self.inputs.items() if not f"{place}/".startswith(own)]


_collected: list[Noted] = []


def reads(location: str, version: str | None = None) -> None:
    """Note an input."""
    for noted in _collected:
        noted.inputs[location] = Dataset(location, version)


def writes(dataset: Dataset) -> None:
    """Note an output that is complete."""
    for noted in _collected:
        noted.outputs[dataset.location] = dataset


@contextmanager
def noted() -> Iterator[Noted]:
    """Collect what the block reads and writes."""
    found = Noted()
    _collected.append(found)
    try:
        yield found
    finally:
        _collected.remove(found)

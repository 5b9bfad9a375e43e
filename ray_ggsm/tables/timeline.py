"""The past of an embedding table as its log tells it: which version had which file, and what was known when.

What is known after a rollback is the version that it went back to, and what that one was built on: the versions in
between are withdrawn from then on. Legend: V versions; an axis V1 begins with the state before version 0, in which
nothing was known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ray_ggsm.tables import delta
from ray_ggsm.tables.metadata import Commit
from ray_ggsm.tables.moments import instant, microseconds, parsed

Span = tuple[int, int]
"""A version, and one past the last: [first, end)."""
NEVER = -1
"""In place of a version: there is none."""


@dataclass(frozen=True)
class HeldFile:
    """A data file and the versions that have it."""

    path: str
    """Path below the table's location."""
    spans: tuple[Span, ...]
    """Versions that have it, in their order."""

    def is_in(self, version: int) -> bool:
        """Whether a version has it."""
        return any(first <= version < end for first, end in self.spans)


@dataclass(frozen=True)
class Timeline:
    """All versions of a table, up to one."""

    location: str
    """The table's place."""
    commits: tuple[Commit, ...]
    """By version."""
    files: Mapping[int, tuple[HeldFile, ...]]
    """Bucket -> the files that it ever had; some of them may be gone."""

    @cached_property
    def committed_V(self) -> np.ndarray:
        """When each version was there, in microseconds since 1970, int64 (V,): never before the one before it, also
        where the clocks of two publishers differed."""
        times = [microseconds(commit.timestamp) for commit in self.commits]
        return np.maximum.accumulate(np.array(times, dtype=np.int64))

    def known_by(self, moment_N: np.ndarray) -> np.ndarray:
        """The newest version committed by each moment (microseconds), (N,); NEVER: there was no table."""
        return np.searchsorted(self.committed_V, moment_N, side="right") - 1

    def newest_with(self, spans: Sequence[Span]) -> np.ndarray:
        """Of what is known at each version, the newest version in some spans, int64 (V1,); NEVER: there is none."""
        V = len(self.commits)
        own_V = np.full(V, NEVER, dtype=np.int64)
        for first, end in spans:
            own_V[first:end] = np.arange(first, end)
        own_V[self._vacuum_V] = NEVER
        newest_V1 = np.full(V + 1, NEVER, dtype=np.int64)
        for (first, end), base in self._branches:
            run = np.concatenate([newest_V1[base + 1 : base + 2], own_V[first:end]])
            newest_V1[first + 1 : end + 1] = np.maximum.accumulate(run)[1:]
        return newest_V1

    def moments(self, spans: Sequence[Span]) -> np.ndarray | None:
        """Every `as_of` that rows of a file with these spans can have, microseconds, sorted; None: nobody knows."""
        recorded = []
        for version in (version for first, end in spans for version in range(first, end)):
            metadata = self.commits[version].metadata
            if metadata.ages and sum(metadata.ages.values()) >= (metadata.rows or 0):
                recorded.append(set(metadata.ages))
        if not recorded:
            return None
        common = set.intersection(*recorded)
        return np.array(sorted(microseconds(instant(parsed(text, "ages"), None)) for text in common), dtype=np.int64)

    def forgets(self, bucket: int) -> list[int]:
        """Versions by which users of a bucket were forgotten."""
        edges = {edge for file in self.files.get(bucket, ()) for span in file.spans for edge in span}
        return [c.version for c in self.commits if c.operation == "forget" and c.version in edges]

    @cached_property
    def _vacuum_V(self) -> np.ndarray:
        return np.array([commit.operation.startswith("vacuum") for commit in self.commits], dtype=bool)

    @cached_property
    def _branches(self) -> list[tuple[Span, int]]:
        """Spans of versions that were built on each other, each with the version that its first one was built on."""
        starts = {0: NEVER}
        for commit in self.commits:
            if (target := _went_back_to(commit)) is not None:
                starts[commit.version] = target
        firsts = sorted(starts)
        ends = [*firsts[1:], len(self.commits)]
        return [((first, end), starts[first]) for first, end in zip(firsts, ends, strict=True)]


def standing(commits: Sequence[Commit]) -> set[int]:
    """The newest of these versions and those that it was built on: all but those that a rollback withdrew."""
    by_version = {commit.version: commit for commit in commits}
    found: set[int] = set()
    version = max(by_version, default=NEVER)
    while version in by_version:
        found.add(version)
        target = _went_back_to(by_version[version])
        version = version - 1 if target is None else target
    return found


def _went_back_to(commit: Commit) -> int | None:
    """The version that a rollback is built on; None: the commit is built on the one before it."""
    target = commit.metadata.rolled_back_to
    return target if commit.operation == "rollback" and target is not None and 0 <= target < commit.version else None


def read_timeline(location: str, commits: Sequence[Commit]) -> Timeline:
    """The past of the table at a location, from its commits (by version, from 0 on) and its log.

    Raises:
        InputError: the log is incomplete or damaged.
    """
    opened: dict[str, int] = {}
    bucket_of_path: dict[str, int] = {}
    spans: dict[str, list[Span]] = {}
    for version, changes in enumerate(delta.file_changes(location, len(commits) - 1)):
        added = {file.path for file in changes.added}
        for path in changes.removed:
            if path in opened and path not in added:
                spans.setdefault(path, []).append((opened.pop(path), version))
        for file in changes.added:
            bucket_of_path[file.path] = file.bucket
            opened.setdefault(file.path, version)
    for path, first in opened.items():
        spans.setdefault(path, []).append((first, len(commits)))
    files: dict[int, list[HeldFile]] = {}
    for path, of_path in spans.items():
        files.setdefault(bucket_of_path[path], []).append(HeldFile(path, tuple(of_path)))
    return Timeline(location, tuple(commits), {bucket: tuple(some) for bucket, some in files.items()})

"""The shuffle of an ingest: files -> rows by bucket -> one file per bucket and table. Nothing of it is visible yet."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ray

from ray_ggsm.data.store import tasks
from ray_ggsm.data.store.arrivals import Batch, Look
from ray_ggsm.data.store.changes import TableChange
from ray_ggsm.data.store.columns import REJECTED
from ray_ggsm.data.store.layout import Layout, table_place
from ray_ggsm.data.store.log import StoreFile, files
from ray_ggsm.data.store.manifest import FileEntry, Manifest, State, file_key
from ray_ggsm.data.store.names import Names


@dataclass(frozen=True)
class Done:
    """What was written and read; nothing of it is visible yet."""

    added: Mapping[str, Sequence[StoreFile]]
    """Table -> its new files."""
    removed: Mapping[str, Sequence[StoreFile]]
    """Table -> files that they stand for."""
    entries: Sequence[FileEntry]
    capped: Mapping[str, int]
    not_taken: int
    """Records of forgotten users."""


@dataclass(frozen=True)
class Shuffle:
    """The tasks of one change."""

    mb_per_task: int
    max_events_per_user: int | None
    location: str
    layout: Layout
    state: State
    """What the store holds before."""
    manifest: Manifest
    key: bytes | None
    """Of pseudonyms: of the list of forgotten users, and of all users where the store names them so."""

    def run(self, changes: Sequence[TableChange]) -> Done:
        """Read all files, and write all buckets."""
        started_ = {change.name: self._start(change) for change in changes}
        entries: list[FileEntry] = []
        capped: Counter[str] = Counter()
        not_taken = 0
        added: dict[str, list[StoreFile]] = {REJECTED: []}
        letters = []
        for name, (summaries, rejected, writing) in started_.items():
            for found, lost, forgotten in ray.get(summaries):
                entries += found
                capped[name] += lost
                not_taken += forgotten
            letters += rejected
            added[name] = []
            for some, lost, late in ray.get(writing):
                added[name] += some
                capped[name] += lost
                letters.append(late)
        sequence, run = self.manifest.sequence, self.manifest.run
        write = ray.remote(num_cpus=1)(tasks.write_rejected)
        if letters:
            place = table_place(self.location, REJECTED)
            added[REJECTED] += ray.get(write.remote(place, self.layout.buckets, sequence, run, *letters))
        removed = self._remove_replaced(changes, added)
        return Done(added, removed, entries, +capped, not_taken)

    def _start(self, change: TableChange) -> tuple[list[ray.ObjectRef], list[ray.ObjectRef], list[ray.ObjectRef]]:
        """Start the tasks of a table: what was read, rejected records, and files of buckets."""
        total = sum(each.size for each in change.arriving)
        parts = min(self.layout.buckets, 1 + 2 * total // (self.mb_per_task * 2**20))
        read = ray.remote(num_cpus=1, num_returns=2 + parts)(tasks.read)
        write = ray.remote(num_cpus=1)(tasks.write)
        results = [read.remote(batch, parts) for batch in self._batches(change)]
        place, most = table_place(self.location, change.name), self.max_events_per_user
        writing = [
            write.remote(place, change.name, change.state, most, self.manifest, *(r[2 + part] for r in results))
            for part in range(parts)
            if results
        ]
        return [r[0] for r in results], [r[1] for r in results], writing

    def _batches(self, change: TableChange) -> Iterator[Batch]:
        """Files of about `mb_per_task` together."""
        files_, size = [], 0
        for each in change.arriving:
            files_.append(each)
            size += each.size
            if size >= self.mb_per_task * 2**20:
                yield self._batch(change, files_)
                files_, size = [], 0
        if files_:
            yield self._batch(change, files_)

    def _batch(self, change: TableChange, looks: Sequence[Look]) -> Batch:
        return Batch(
            name=change.name,
            config=change.config,
            state=change.state,
            files=tuple(looks),
            day=self.manifest.day,
            sequence=self.manifest.sequence,
            buckets=self.layout.buckets,
            max_events_per_user=self.max_events_per_user,
            names=Names(self.state.suppressed, self.key, self.layout.key_id is not None),
        )

    def _remove_replaced(
        self, changes: Sequence[TableChange], added: dict[str, list[StoreFile]]
    ) -> dict[str, list[StoreFile]]:
        """Write the files that hold rows of replaced ones again, without these; returns the files that go."""
        without = ray.remote(num_cpus=1)(tasks.without)
        removed: dict[str, list[StoreFile]] = {}
        state, writing = self.state, []
        for change in changes:
            if not change.replaced:
                continue
            sequences = {state.sequences[file_key(change.name, path)] for path in change.replaced}
            for table in (change.name, REJECTED):
                if table not in state.tables:
                    continue
                found, place = state.tables[table], table_place(self.location, table)
                for file in files(place, found.version, found.time):
                    first, last = file.sequences
                    if any(first <= s <= last for s in sequences) and file not in removed.setdefault(table, []):
                        removed[table].append(file)
                        paths = {c.name: c.replaced for c in changes}
                        writing.append((table, without.remote(place, table, found, file, paths, self.manifest.run)))
        for table, task in writing:
            added[table] += ray.get(task)
        return removed

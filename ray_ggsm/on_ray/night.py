"""The users of one night, made of events: who needs a new vector is decided before any row is made."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import cast

import ray

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.layout import Layout
from ray_ggsm.building.night_rows import Shard, night_rows
from ray_ggsm.config import InputError, NotNow, digest
from ray_ggsm.data import definition
from ray_ggsm.data import prepare as shards
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import enforce_table_shares
from ray_ggsm.data.night import EventsConfig, count_users, night_config
from ray_ggsm.data.source_choice import pinned
from ray_ggsm.data.source_config import StoreSource
from ray_ggsm.data.store.source import EventStore
from ray_ggsm.data.summary import ShardCounts
from ray_ggsm.data.validate import enforce_share
from ray_ggsm.experiment import RayConfig
from ray_ggsm.log import say
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.prepare import Shards, task
from ray_ggsm.tables import delta
from ray_ggsm.tables.metadata import RecordedInput
from ray_ggsm.tables.publish import NO_TABLE


@dataclass(frozen=True)
class Night:
    """What is made of events for one moment."""

    config: DataConfig
    name: str
    """For people, and for the table's history."""
    seen: RecordedInput
    """What it is made of."""
    max_age_days: int | None
    """As in `Build`."""
    store: str
    """Where own event files are laid out by user, if there are several shards."""
    resources: RayConfig

    @classmethod
    def of(
        cls,
        events: EventsConfig,
        encoder: SavedEncoder,
        max_text_length: int,
        table: str,
        resources: RayConfig,
        max_age_days: int | None = None,
    ) -> "Night":
        """The night that the events tell of; a store is read as it is now.

        Raises:
            InputError: the encoder says nothing of its rows, or the events do not fit what it says.
        """
        found = definition.read(encoder.location)
        file = storage.join(storage.absolute(encoder.location), definition.FILE)
        if found is None:
            raise InputError(
                f"events: {encoder.location} has no {definition.FILE}, which says how rows are made; attach-definition "
                "gives one to encoders of earlier versions"
            )
        config = pinned(night_config(events, found, file, max_text_length))
        try:
            shards.check(config)
        except InputError as error:
            raise InputError(str(error).replace("data.", "events.", 1)) from None
        source, name, manifest = config.source, f"events as of {config.snapshots.dates[0]}", None
        always = config.model_copy(
            update={"snapshots": config.snapshots.model_copy(update={"cutoffs": (dt.date(2000, 1, 1),)})}
        )
        state = shards.input_state(config)
        if isinstance(source, StoreSource):
            manifest = source.manifest
            name += f", manifest {manifest} of {source.location}"
            always = always.model_copy(update={"source": source.model_copy(update={"manifest": None})})
            state = {"store": {"location": storage.absolute(source.location)}} | {
                key: value for key, value in state.items() if key != "store"
            }
        of_all_nights = digest(always, state)
        seen = RecordedInput(
            rows=name, digest=digest(config, shards.input_state(config)), events=of_all_nights, manifest=manifest
        )
        store = storage.join(table, "staging", f"events-{digest(config.source, state, config.shards)}")
        return cls(config, name, seen, max_age_days, store, resources)

    @cached_property
    def _shards(self) -> Shards:
        found = Shards.of(self.config, self.store, self.resources)
        source = found.source
        if isinstance(source, EventStore) and source.period is not None and self.max_age_days is not None:
            # events that histories have lost since the oldest vector
            first = source.period[0] - dt.timedelta(days=self.max_age_days + 1)
            return replace(found, source=replace(source, period=(first, source.period[1])))
        return found

    @property
    def shards(self) -> int:
        """Number of shards; the buckets of a new table should be a multiple."""
        return self._shards.count

    def count_users(self) -> int:
        """Users who get a row if nobody keeps a vector."""
        all_, count = self._shards, task(self.config, count_users)
        types = all_.fitted.types
        return sum(
            ray.get(
                [
                    count.remote(
                        self.config, types, k, all_.count, source=all_.source.of_shard(k), threads=all_.threads
                    )
                    for k in range(all_.count)
                ]
            )
        )

    def lay_out(self, build: Build, previous: Mapping[int, Sequence[str]], version: int) -> Layout:
        """Make the rows of all shards, one task each.

        Raises:
            InputError: too many records cannot be used.
        """
        all_, make = self._shards, task(self.config, night_rows, num_returns=2)
        since, only_changed = self._known(build.table, version)
        made = []
        for k in range(all_.count):
            vectors = self._files_of(previous, k, build.buckets)
            shard = Shard(k, all_.count, all_.source.of_shard(k), all_.threads, vectors)
            file = storage.join(build.rows, f"on-{version}", f"shard-{k:05d}.parquet")
            made.append(make.remote(self.config, all_.fitted, shard, build, file, since, only_changed))
        counts = [cast(ShardCounts, ray.get(count)) for _, count in made]
        enforce_table_shares([count.tables for count in counts], self.config.max_bad_share)
        rows = sum(sum(count.rows.values()) for count in counts)
        bad = sum(sum(count.rejected_rows.values()) for count in counts)
        enforce_share(bad, bad + rows, self.config.max_bad_share, build.dead_letters)
        rejected = sum(sum(count.dead_letters.values()) for count in counts)
        told = f"; {rejected:,} records rejected, see {build.dead_letters}" if rejected else ""
        day = self.config.snapshots.dates[0]
        say(f"refresh: made {rows:,} rows as of {day}{told}", rows=rows, rejected=rejected, as_of=str(day))
        return Layout(tuple(part for parts, _ in made for part in ray.get(parts)), bad, version)

    def check_unchanged(self) -> None:
        """Refuse events that changed since the night began; a store is read as of one manifest."""
        if digest(self.config, shards.input_state(self.config)) != self.seen.digest:
            raise NotNow(f"events: {self.name} changed while they were read; nothing was published; start again")

    def clean(self) -> None:
        """Remove own event files that were laid out by user: they name users."""
        storage.remove(self.store)

    def _known(self, table: str, version: int) -> tuple[int | None, bool]:
        """The change of the store that the vectors of a version know, and whether events alone tell who needs a new
        one."""
        if self.max_age_days is None or version == NO_TABLE:
            return None, False
        recorded, source = delta.metadata(table, version).input or RecordedInput(), self._shards.source
        if recorded.events != self.seen.events:
            print(f"refresh: everybody gets a row: version {version} was not made of these events", flush=True)
            return None, False
        since = recorded.manifest
        if isinstance(source, EventStore) and since is not None and not source.adds_only(since):
            print("refresh: everybody gets a row: events were taken out of the store since", flush=True)
            return since, False
        return recorded.manifest, True

    def _files_of(self, previous: Mapping[int, Sequence[str]], shard: int, buckets: int) -> list[str]:
        """The data files that can have users of a shard: users share one of n buckets if they share one of a
        multiple."""
        n = self._shards.count
        is_by_hash = isinstance(self._shards.source, EventStore) and self.config.users.key_file is None
        common = gcd(n, buckets) if is_by_hash else 1
        return [file for k, files in previous.items() if k % common == shard % common for file in files]

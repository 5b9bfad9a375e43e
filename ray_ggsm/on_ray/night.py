"""The user rows of one night, made of events: they lie below the table that they are for, and go when it has them."""

from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.data import definition, summary
from ray_ggsm.data import prepare as shards
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.night import SPLIT, EventsConfig, night_config
from ray_ggsm.data.source_choice import pinned
from ray_ggsm.data.source_config import StoreSource
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.prepare import rows_of

EVENTS = "events"
"""Directory of own event files that were laid out by user, if there are several shards."""


@dataclass(frozen=True)
class Night:
    """What is made, and where."""

    config: DataConfig
    location: str
    """Where its rows and its dead letters go."""
    name: str
    """For people, and for the table's history."""

    @classmethod
    def of(cls, events: EventsConfig, encoder: SavedEncoder, max_text_length: int, table: str) -> "Night":
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
        source, name = config.source, f"events as of {config.snapshots.dates[0]}"
        if isinstance(source, StoreSource):
            name += f", manifest {source.manifest} of {source.location}"
        rows = f"rows-{digest(config, shards.input_state(config))}"
        return cls(config, storage.join(table, "staging", rows), name)

    def make(self, resources: RayConfig) -> list[str]:
        """The files of its rows; an interrupted run's are made again, a finished one's are used."""
        if not storage.exists(storage.join(self.location, summary.FILE)):
            made = rows_of(self.config, self.location, storage.join(self.location, EVENTS), resources)
            rejected = sum(made.dead_letters.values())
            told = f"; {rejected:,} records rejected, see {self.location}/dead_letters" if rejected else ""
            print(f"refresh: made {made.rows[SPLIT]:,} rows as of {self.config.snapshots.dates[0]}{told}", flush=True)
        return storage.list_files(storage.join(self.location, "rows", SPLIT), ".parquet")

    def clean(self) -> None:
        """Remove the rows, which name users; dead letters stay."""
        for name in (summary.FILE, "rows", "labels", EVENTS):
            storage.remove(storage.join(self.location, name))

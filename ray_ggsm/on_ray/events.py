"""Encode every distinct event text once: rows -> distinct texts -> vectors in the shared store, on Ray Data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment, RayConfig, event_vectors
from ray_ggsm.model import event_vectors as store
from ray_ggsm.model.event_encoder import EventEncoder, EventEncoderConfig
from ray_ggsm.model.event_vectors import Store
from ray_ggsm.on_ray.devices import actor_resources, device_of
from ray_ggsm.on_ray.plan import Block
from ray_ggsm.on_ray.texts import distinct, unknown

TEXTS_PER_BATCH = 2048


@dataclass(frozen=True)
class EncodedEvents:
    """A store that knows all events of a job's rows."""

    digest: str
    """of the event encoder"""
    store: Store
    events: int
    """events of the rows"""
    found: int
    """of these, events whose text the store knew before"""
    encoded: int
    """distinct texts that had to be encoded"""

    def counts(self) -> dict[str, int]:
        """For the stage's results."""
        return {"events": self.events, "events_found_in_store": self.found, "event_texts_encoded": self.encoded}


def encode_events(
    experiment: Experiment, blocks: Sequence[Block], columns: Sequence[str], digest: str | None = None
) -> EncodedEvents:
    """Bring the store up to date with all event texts in `columns` of the blocks, and say what it knew.

    `digest` is that of the event encoder which a trained encoder goes with; None: that of the config's. The event
    encoder is loaded only where texts are new to the store, or where its digest is asked for.

    Raises:
        InputError: texts are new, and the config names another event encoder than `digest`.
    """
    config = experiment.model.event_encoder
    digest = digest or ray.get(_digest.remote(config))
    location = storage.join(event_vectors(experiment), digest)
    known = store.find(location, experiment.ray.cache_directory)
    described = ray.data.from_items([asdict(block) for block in blocks], override_num_blocks=max(len(blocks), 1))
    counted = described.map_batches(
        distinct, batch_format="pyarrow", batch_size=1, fn_args=[columns, known]
    ).materialize()
    events = found = 0
    for batch in counted.select_columns(["events", "found"]).iter_batches(batch_size=None, batch_format="numpy"):
        events, found = events + int(batch["events"].sum()), found + int(batch["found"].sum())
    before = len(known.open().key_N)
    if found < events:
        texts = counted.map_batches(unknown, batch_format="pyarrow")
        # equal texts have equal keys, so after this shuffle each text is in one block only
        encoded = texts.repartition(experiment.ray.embed_workers * 2, keys=["key"]).map_batches(
            _Encode,
            fn_constructor_args=[config, experiment.ray, digest],
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(size=experiment.ray.embed_workers),
            **actor_resources(experiment.ray),
        )
        fs, path = storage.arrow_filesystem(location)
        encoded.write_parquet(path, filesystem=fs)
        known = store.find(location, experiment.ray.cache_directory)
    encoded_texts = len(known.open().key_N) - before
    share = found / events if events else 1.0
    print(
        f"events: {events:,}, {share:.1%} of them found in the store; {encoded_texts:,} texts encoded; {location}",
        flush=True,
    )
    return EncodedEvents(digest, known, events, found, encoded_texts)


@ray.remote
def _digest(config: EventEncoderConfig) -> str:
    import torch

    return EventEncoder(config, torch.device("cpu")).digest


class _Encode:
    """Actor: texts -> one part of the store."""

    def __init__(self, config: EventEncoderConfig, resources: RayConfig, digest: str) -> None:
        self.encoder, self.digest = EventEncoder(config, device_of(resources)), digest

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.encoder.digest != self.digest:
            raise InputError(
                f"model.event_encoder is {self.encoder.digest}; the encoder was trained with the event encoder "
                f"{self.digest}: name that one"
            )
        texts = pc.unique(batch["text"])
        if not len(texts):
            return store.SCHEMA.empty_table()
        return store.part(texts, self.encoder.encode(texts.to_pylist()))

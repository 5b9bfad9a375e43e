"""Encodes every distinct event text once: rows -> distinct texts -> vectors in the shared store, on Ray Data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.chunks import Chunk
from ray_ggsm.data.texts import distinct_texts, unknown_texts
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model import event_vectors
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.model.pretrained import is_packed, packed
from ray_ggsm.on_ray.cluster.devices import actor_options, actor_pool, device_of
from ray_ggsm.stage_results import EventCounts


@dataclass(frozen=True)
class EventEncoding:
    """What encodes event texts, and where their vectors are kept."""

    encoder: EventEncoderConfig | None
    """None: the encoder of users reads no event vectors."""
    digest: str | None
    """Digest of the event encoder that a trained encoder goes with; None: the digest of `encoder`."""
    location: str
    """Location of the vectors, in one directory per event encoder."""
    ray: RayConfig
    packed_in: str | None = None
    """Directory of an encoder that may have the event encoder's weights (`ray_ggsm.model.pretrained`)."""


@dataclass(frozen=True)
class EncodedEvents:
    """A store that has the vectors of all events of a job's rows."""

    digest: str
    """Digest of the event encoder."""
    vectors: VectorStore
    counts: EventCounts


def encode_events(config: EventEncoding, chunks: Sequence[Chunk], columns: Sequence[str]) -> EncodedEvents:
    """Bring the store up to date with all event texts in `columns` of the chunks, and say what it had.

    Without an event encoder, nothing is read and the store is empty.
    The event encoder is loaded only where texts are new to the store, or where its digest is asked for.

    Raises:
        InputError: texts are new, and the config names another event encoder than the digest.
    """
    if config.encoder is None:
        counts = EventCounts(events=0, events_found_in_store=0, event_texts_encoded=0)
        return EncodedEvents("", VectorStore((), config.ray.cache_directory), counts)
    digest = config.digest or ray.get(_digest.remote(config.encoder))
    location = storage.join(config.location, digest)
    known = event_vectors.find(location, config.ray.cache_directory)
    described = ray.data.from_items([asdict(chunk) for chunk in chunks], override_num_blocks=max(len(chunks), 1))
    counted = described.map_batches(
        distinct_texts, batch_format="pyarrow", batch_size=1, fn_args=[columns, known]
    ).materialize()
    events = found = 0
    for batch in counted.select_columns(["events", "found"]).iter_batches(batch_size=None, batch_format="numpy"):
        events, found = events + int(batch["events"].sum()), found + int(batch["found"].sum())
    before = len(known.open())
    if found < events:
        _encode(counted, config, digest, location)
        known = event_vectors.find(location, config.ray.cache_directory)
    encoded = len(known.open()) - before
    share = found / events if events else 1.0
    found_share = f"{events:,}, {share:.1%} of them found in the store"
    print(f"texts of events: {found_share}; {encoded:,} texts encoded; {location}", flush=True)
    counts = EventCounts(events=events, events_found_in_store=found, event_texts_encoded=encoded)
    return EncodedEvents(digest, known, counts)


def _encode(counted: ray.data.Dataset, config: EventEncoding, digest: str, location: str) -> None:
    """Encode the texts that the store does not know, into new parts of the store."""
    assert config.encoder is not None
    texts = counted.map_batches(unknown_texts, batch_format="pyarrow")
    # equal texts have equal keys, so after this shuffle each text is in one Ray block only
    encoded = texts.repartition(config.ray.pool.max * 2, keys=["key"]).map_batches(
        _Encode,
        fn_constructor_args=[config, digest],
        batch_format="pyarrow",
        batch_size=None,
        compute=actor_pool(config.ray, config.ray.pool.max),
        **actor_options(config.ray),
    )
    fs, path = storage.arrow_filesystem(location)
    encoded.write_parquet(path, filesystem=fs)


@ray.remote
def _digest(config: EventEncoderConfig) -> str:
    import torch

    return EventEncoder(config, torch.device("cpu")).digest


class _Encode:
    """Actor: texts -> one part of the store."""

    def __init__(self, config: EventEncoding, digest: str) -> None:
        assert config.encoder is not None
        self.digest, device = digest, device_of(config.ray)
        self.place = config.packed_in if config.packed_in is not None and is_packed(config.packed_in) else None
        if self.place is None:
            self.encoder = EventEncoder(config.encoder, device)
            return
        with packed(self.place, "event_encoder") as directory:
            self.encoder = EventEncoder(config.encoder, device, directory)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.encoder.digest != self.digest:
            if self.place is not None:
                raise InputError(f"{self.place}: the event encoder packed here was changed; restore it")
            raise InputError(
                f"the event encoder '{self.encoder.config.name}' is {self.encoder.digest}, but the encoder was trained "
                f"with the event encoder {self.digest}: name that one"
            )
        texts = pc.unique(batch["text"])
        if not len(texts):
            return event_vectors.SCHEMA.empty_table()
        return event_vectors.part(texts, self.encoder.encode(texts.to_pylist()))

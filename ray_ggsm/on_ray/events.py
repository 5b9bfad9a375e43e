"""Encode every distinct event text once: rows -> distinct texts -> vectors in the shared store, on Ray Data."""

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import ActorPoolStrategy

from ray_ggsm import storage
from ray_ggsm.experiment import Experiment, RayConfig, event_vectors
from ray_ggsm.model import event_vectors as store
from ray_ggsm.model.event_encoder import EventEncoder, EventEncoderConfig
from ray_ggsm.model.event_vectors import EventVectors
from ray_ggsm.on_ray.devices import actor_resources, device_of

TEXTS_PER_BATCH = 2048


def encode_events(experiment: Experiment, files: list[str], columns: list[str]) -> tuple[str, str, EventVectors]:
    """Bring the store up to date with all event texts in `columns` of the Parquet `files`.

    Returns:
        The store's location, the event encoder's digest, and all vectors.
    """
    config = experiment.model.event_encoder
    digest = ray.get(_digest.remote(config))
    location = storage.join(event_vectors(experiment), digest)
    known = EventVectors.read(location)
    reference = ray.put(known)
    rows = ray.data.read_parquet(files).select_columns(columns)
    texts = rows.map_batches(_distinct, batch_format="pyarrow", batch_size=4096, fn_args=[reference]).materialize()
    if texts.count():
        # equal texts have equal keys, so after this shuffle each text is in one block only
        encoded = texts.repartition(experiment.ray.embed_workers * 2, keys=["key"]).map_batches(
            _Encode,
            fn_constructor_args=[config, experiment.ray],
            batch_format="pyarrow",
            batch_size=None,
            compute=ActorPoolStrategy(size=experiment.ray.embed_workers),
            **actor_resources(experiment.ray),
        )
        fs, path = storage.arrow_filesystem(location)
        encoded.write_parquet(path, filesystem=fs)
        known = EventVectors.read(location)
    return location, digest, known


@ray.remote
def _digest(config: EventEncoderConfig) -> str:
    import torch

    return EventEncoder(config, torch.device("cpu")).digest


def _distinct(rows: pa.Table, known: "ray.ObjectRef[EventVectors]") -> pa.Table:
    """Texts that the store does not have, each once per batch, with their keys."""
    texts = [pc.list_flatten(column.combine_chunks()).field("text") for column in rows.columns]
    distinct = pc.unique(pa.chunked_array(texts, pa.string())).drop_null()
    new = ray.get(known).missing(distinct)
    return pa.table({"key": pa.array(store.keys(new)), "text": new})


class _Encode:
    """Actor: texts -> one part of the store."""

    def __init__(self, config: EventEncoderConfig, resources: RayConfig) -> None:
        self.encoder = EventEncoder(config, device_of(resources))

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = pc.unique(batch["text"])
        if not len(texts):
            return store.SCHEMA.empty_table()
        return store.part(texts, self.encoder.encode(texts.to_pylist()))

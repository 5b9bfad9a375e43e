"""The embed stage: Ray Data maps the encoder over user rows and publishes an embedding table."""

import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.validate import enforce_share, validate
from ray_ggsm.embedding.embedder import Embedder, EmbeddingConfig
from ray_ggsm.experiment import Experiment, stages
from ray_ggsm.model import saved
from ray_ggsm.model.batch import kept_events
from ray_ggsm.model.event_vectors import Store
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.devices import actor_resources, device_of
from ray_ggsm.on_ray.events import encode_events
from ray_ggsm.on_ray.stages import timed
from ray_ggsm.tables import table


def embed(experiment: Experiment) -> str:
    """Embed the configured stages' rows; returns the table's location. A finished stage is reused."""
    place = stages(experiment)
    stage = place["embed"]
    location = stage.path("table")
    if stage.result():
        return location
    for name in experiment.embedding.stages:
        if name not in experiment.data.stages:
            known = ", ".join(experiment.data.stages)
            raise InputError(f"embedding.stages: there is no stage '{name}' in data.stages; it has {known}")
    place["prepare"].require("jobs/prepare.py")
    place["train"].require("jobs/train.py")
    name = "encoder" if experiment.embedding.checkpoint == "final" else "untrained"
    encoder = place["train"].path(name)
    modalities = list(experiment.data.modalities)
    files = [
        file
        for rows in experiment.embedding.stages
        for file in storage.list_files(place["prepare"].path("rows", rows), ".parquet")
    ]
    described = storage.read_json(storage.join(encoder, "encoder.json"))
    with connected(experiment), timed(stage) as results:
        if described["alpha"] < 1:
            print(_half_way(described, experiment.embedding), flush=True)
        storage.remove(location)
        storage.remove(stage.path("dead_letters"))
        events = encode_events(experiment, files, modalities)
        rows = ray.data.read_parquet(files).select_columns(["user_id", "as_of", *modalities, "tabular"])
        fs, path = storage.arrow_filesystem(location)
        rows.repartition(target_num_rows_per_block=experiment.embedding.rows_per_batch).map_batches(
            _Embed,
            fn_constructor_args=[experiment, encoder, events.store, stage.path("dead_letters")],
            batch_format="pyarrow",
            batch_size=experiment.embedding.rows_per_batch,
            compute=ActorPoolStrategy(size=experiment.ray.embed_workers),
            **actor_resources(experiment.ray),
        ).write_parquet(path, filesystem=fs)
        given = sum(_rows(file) for file in files)
        dead = sum(_rows(file) for file in storage.list_files(stage.path("dead_letters"), ".parquet"))
        enforce_share(dead, given, experiment.data.max_bad_share, stage.path("dead_letters"))
        origin = {"encoder": described, "embedding": experiment.embedding.model_dump(mode="json")}
        manifest = table.publish(location, given - dead, origin)
        results.update(rows=manifest["rows"], dead_letters=dead, table=location, **events.counts())
    return location


class _Embed:
    """Actor: user rows -> rows of the embedding table; rejected rows -> dead letters."""

    def __init__(self, experiment: Experiment, encoder: str, store: Store, dead_letters: str) -> None:
        self.experiment = experiment
        trained = saved.load(encoder, device_of(experiment.ray))
        self.embedder = Embedder(
            trained, store.open(), experiment.embedding.tokens_per_batch, experiment.embedding.mask == "inference"
        )
        self.modalities = [m.name for m in trained.encoder.template.modalities]
        self.features = len(trained.feature_names)
        self.dead_letters = dead_letters

    def __call__(self, rows: pa.Table) -> pa.Table:
        good, dead = validate(
            rows, self.modalities, self.features, max_text_length=self.experiment.data.max_text_length, stage="embed"
        )
        if len(dead):
            fs, path = storage.arrow_filesystem(storage.join(self.dead_letters, f"part-{uuid.uuid4().hex}.parquet"))
            fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
            pq.write_table(dead, path, filesystem=fs)
        if not len(good):
            return table.SCHEMA.empty_table()
        events_B = kept_events(good, self.embedder.encoder.template).sum(axis=0).astype(np.int32)
        return table.rows_to_table(good["user_id"], good["as_of"], events_B, self.embedder(good))


def _half_way(described: dict[str, Any], config: EmbeddingConfig) -> str:
    stands = f"the encoder's mask stands at alpha {described['alpha']:.2f} (step {described['step']})"
    if config.mask == "inference":
        return f"embed: {stands}; embedding.mask: inference opens it all the same"
    return f"embed: {stands}, and it is used as it is; embedding.mask: inference would use the recipe's final mask"


def _rows(file: str) -> int:
    fs, path = storage.arrow_filesystem(file)
    with pq.ParquetFile(path, filesystem=fs) as parquet:
        return int(parquet.metadata.num_rows)

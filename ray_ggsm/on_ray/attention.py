"""The attention job: where the attention of the train stage's encoders goes, before and after training.

Writes `<output>/attention-<digest>/attention.json`: three readings of the same users. They tell what the mask did from
what the weights learned:

    before    the encoder at step 0, under the mask that training began with
    opened    the encoder at step 0, under the mask of `after` (hybrid_mlp's mask is weights: there it is `before`)
    after     the trained encoder, as embedding uses it
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import ray
from torch import Tensor

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record, digest
from ray_ggsm.data.chunks import Chunk, plan_chunks, read_chunk
from ray_ggsm.data.definition import read_file
from ray_ggsm.data.validate import validate
from ray_ggsm.evaluation.attention import AttentionMeans, attention_of, terminal_table
from ray_ggsm.evaluation.pages.attention_figures import attention_figure
from ray_ggsm.evaluation.pages.figure import Figure
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks import Tokens
from ray_ggsm.model import saved
from ray_ggsm.model.description import EncoderDescription, SavedEncoder
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.cluster.devices import actor_resources, device_of, encoders
from ray_ggsm.on_ray.cluster.resources import require
from ray_ggsm.on_ray.event_texts import EventEncoding, encode_events
from ray_ggsm.stages import Pipeline


class Reading(Record):
    """What an encoder's heads do under one mask."""

    step: int
    alpha: float
    means: AttentionMeans


class Readings(Record):
    """The content of `attention.json`."""

    split: str
    train: str
    """Location of the train stage."""
    seconds: float
    readings: dict[str, Reading]
    """before, opened, after"""


@dataclass(frozen=True)
class _Sample:
    """What the task reads."""

    chunks: Sequence[Chunk]
    encoder: EncoderDescription
    zone: str
    """Time zone whose clock ages follow."""
    vectors: VectorStore
    train: str
    """Location of the train stage."""


def attention(pipeline: Pipeline) -> Readings:
    """Look at the sample's attention, print a table, and return what was written; a finished result is reused.

    Raises:
        InputError: the train stage is not finished, or the split to look at has no rows.
    """
    file = result_file(pipeline)
    if not storage.exists(file):
        storage.write_json(file, _read(pipeline).model_dump(mode="json"))
    result = Readings.model_validate_json(storage.read_text(file))
    means = {name: reading.means for name, reading in result.readings.items()}
    print(f"{terminal_table(means)}\nattention: {file}", flush=True)
    return result


def result_file(pipeline: Pipeline) -> str:
    """Where the result is, or will be."""
    e = pipeline.experiment
    name = f"attention-{digest(pipeline.train.directory, e.attention, e.embedding.mask)}"
    return storage.join(storage.absolute(e.output), name, "attention.json")


def attention_picture(pipeline: Pipeline) -> Figure | None:
    """What training changed, as a picture: the encoder at step 0 under the trained one's mask, and the trained one.

    None: jobs/attention.py has not looked yet.
    """
    file = result_file(pipeline)
    if not storage.exists(file):
        return None
    readings = Readings.model_validate_json(storage.read_text(file)).readings
    return attention_figure(readings["opened"].means, readings["after"].means)


def attention_split(experiment: Experiment) -> str:
    """The split to look at.

    Raises:
        InputError: the config names none, and no split has the role `score`; or the encoder has no attention.
    """
    if experiment.model.kind != "llm":
        raise InputError(f"model.kind: an encoder of the kind {experiment.model.kind} has no heads to look at")
    splits, split = experiment.data.splits, experiment.attention.split or experiment.data.score_split
    if split is None:
        raise InputError(f"attention.split: name one; none has `role: score`; data.splits has {', '.join(splits)}")
    return split


def _read(pipeline: Pipeline) -> Readings:
    started, e = time.monotonic(), pipeline.experiment
    pipeline.prepare.require()
    pipeline.train.require()
    encoder = SavedEncoder.read(pipeline.train.encoder).description
    chunks = _chunks(pipeline, encoder)
    with connected(e):
        require(encoders(e.ray), e.ray)
        encoding = EventEncoding(e.model.event_encoder, encoder.event_encoder_digest, pipeline.event_vectors, e.ray)
        events = encode_events(encoding, chunks, encoder.modality_names)
        zone = read_file(pipeline.prepare.definition).age_timezone
        sample = _Sample(chunks, encoder, zone, events.vectors, pipeline.train.location)
        task = _readings.options(**actor_resources(e.ray))
        readings: dict[str, Reading] = ray.get(task.remote(e, sample))
    seconds = round(time.monotonic() - started, 1)
    return Readings(split=attention_split(e), train=pipeline.train.location, seconds=seconds, readings=readings)


def _chunks(pipeline: Pipeline, encoder: EncoderDescription) -> list[Chunk]:
    """The first chunks of the split's rows, just enough for the sample."""
    config, split = pipeline.experiment.attention, attention_split(pipeline.experiment)
    files = storage.list_files(pipeline.prepare.rows(split), ".parquet")
    chunks, rows = [], 0
    for chunk in plan_chunks(files, config.rows, encoder.modality_names, len(encoder.feature_names)):
        if rows < config.rows:
            chunks.append(chunk)
            rows += chunk.rows
    if not chunks:
        raise InputError(f"attention.split: '{split}' has no rows; choose another split")
    return chunks


@ray.remote
def _readings(experiment: Experiment, sample: _Sample) -> dict[str, Reading]:
    """Every reading by its name."""
    names, features = sample.encoder.modality_names, len(sample.encoder.feature_names)
    columns, limit = ["user_id", "as_of", *names, "tabular", "query"], experiment.data.max_text_length
    tables = [
        validate(read_chunk(chunk, columns), names, features, limit, source=chunk.file, zone=sample.zone)[0]
        for chunk in sample.chunks
    ]
    rows = pa.concat_tables(tables).slice(0, experiment.attention.rows)
    device = device_of(experiment.ray)
    before, after = (saved.load(storage.join(sample.train, name), device) for name in ("untrained", "encoder"))
    for bundle in (before, after):
        bundle.encoder.merge_lora()  # as embedding does
    opened = replace(before, recipe=after.recipe, step=after.step)
    lookup, finished = sample.vectors.open(), experiment.embedding.mask == "inference"

    def weight(bundle: EncoderBundle, tokens: Tokens) -> Tensor:
        return bundle.recipe.inference_weight(tokens) if finished else bundle.recipe.future_weight(tokens, bundle.step)

    return {
        name: Reading(
            step=bundle.step,
            alpha=1.0 if finished else bundle.recipe.alpha(bundle.step),
            means=attention_of(bundle, lookup, rows, partial(weight, bundle)),
        )
        for name, bundle in {"before": before, "opened": opened, "after": after}.items()
    }

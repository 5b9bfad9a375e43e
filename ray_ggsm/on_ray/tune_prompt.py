"""The tune_prompt job: a soft prompt for one label, fitted on the training rows, with everything else frozen.

One task with the resources of a training worker. `<output>/prompt-<digest>/` gets `prompt.json` and
`prompt.safetensors`; a finished prompt is reused. Rows that probes are fitted on are never looked at: their labels stay
unseen. The rows that are scored are scored once, at the end.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from pydantic import Field, JsonValue

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Location, Runtime, digest
from ray_ggsm.data.chunks import plan_chunks
from ray_ggsm.encoders.kinds import load
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.encoders.prompt_tuning import PromptTuner, TuningConfig, balanced
from ray_ggsm.evaluation.metrics import auc
from ray_ggsm.experiment import Experiment, arguments, loaded
from ray_ggsm.log import say
from ray_ggsm.model.config import PROMPT
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.model.soft_prompt import PromptDescription, SoftPrompt, load_prompt
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.cluster.console import console
from ray_ggsm.on_ray.cluster.devices import device_of
from ray_ggsm.on_ray.event_texts import EventEncoding, encode_events
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.labelled import PREFIX, read_group
from ray_ggsm.training.pairs import groups_of, head

LINES = 10
"""Lines about progress."""


class TunePromptConfig(Config):
    """For which label, on which encoder."""

    experiment: str
    """Config file of a finished experiment (prepare and train), whose encoder stays as it is."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Changes to it: key.path -> value."""
    label: str
    """One of its labels."""
    output: Runtime[Location]
    """Directory of prompts, local or s3://."""
    tuning: TuningConfig = TuningConfig()
    """How it is fitted."""
    seed: int = Field(0, ge=0)
    """Seeds the vectors and the order of the rows."""


@dataclass(frozen=True)
class _Job:
    """What the task gets."""

    config: TunePromptConfig
    experiment: Experiment
    encoder: str
    """Location of the encoder."""
    digest: str
    vectors: VectorStore
    rows: str
    labels: str
    scored: tuple[str, str] | None
    """Rows and labels of the split that is scored; None: there is none."""
    location: str
    """Where the prompt goes."""


def tune_prompt(config: TunePromptConfig) -> SoftPrompt:
    """Fit what is not there yet; returns the prompt.

    Raises:
        InputError: the experiment is not finished, has no such label, or its encoder is no language model.
    """
    pipeline = _pipeline(config)
    encoder = SavedEncoder.read(pipeline.train.encoder)
    location = _location(config, pipeline, encoder)
    if not storage.exists(storage.join(location, "prompt.json")):
        with connected(pipeline.experiment):
            _tune(config, pipeline, encoder, location)
    prompt = load_prompt(location)
    told = "" if prompt.description.auc is None else f", AUC {prompt.description.auc:.4f} on the rows that are scored"
    say(f"tune_prompt: {PROMPT}{location}{told}")
    return prompt


def preview(config: TunePromptConfig) -> str:
    """Where the prompt is, or will be."""
    pipeline = _pipeline(config)
    return f"tune_prompt: {_location(config, pipeline, SavedEncoder.read(pipeline.train.encoder))}"


def _pipeline(config: TunePromptConfig) -> Pipeline:
    experiment = loaded(config.experiment, config.settings)
    if config.label not in experiment.data.labels:
        raise InputError(f"label: '{config.label}' is none of data.labels ({', '.join(experiment.data.labels)})")
    if experiment.model.kind != "llm":
        raise InputError(f"model.kind: an encoder of the kind {experiment.model.kind} takes no instructions")
    pipeline = Pipeline.of(experiment, arguments(config.experiment, config.settings))
    pipeline.prepare.require()
    pipeline.train.require()
    return pipeline


def _location(config: TunePromptConfig, pipeline: Pipeline, encoder: SavedEncoder) -> str:
    """It names all that the prompt depends on; what the label means is in the name of the prepared data."""
    prepared, mask = pipeline.prepare.directory, pipeline.experiment.embedding.mask
    name = digest(config.tuning, config.label, config.seed, encoder.digest, prepared, mask)
    return storage.join(storage.absolute(config.output), f"prompt-{name}")


def _tune(config: TunePromptConfig, pipeline: Pipeline, encoder: SavedEncoder, location: str) -> None:
    e, description = pipeline.experiment, encoder.description
    train, scored = e.data.train_split, e.data.score_split
    splits = [train, *([scored] if scored is not None else [])]
    files = [file for split in splits for file in storage.list_files(pipeline.prepare.rows(split), ".parquet")]
    chunks = plan_chunks(files, e.embedding.rows_per_chunk, description.modality_names, len(description.feature_names))
    store, events_digest = pipeline.event_vectors, description.event_encoder_digest
    encoding = EventEncoding(e.model.event_encoder, events_digest, store, e.ray, packed_in=encoder.location)
    vectors = encode_events(encoding, chunks, description.modality_names).vectors
    job = _Job(
        config, e, pipeline.train.encoder, encoder.digest, vectors, pipeline.prepare.rows(train),
        pipeline.prepare.labels(train),
        (pipeline.prepare.rows(scored), pipeline.prepare.labels(scored)) if scored is not None else None, location,
    )  # fmt: skip
    resources = {"num_gpus": 1.0} if e.ray.gpu else {"num_cpus": e.ray.cpus_per_train_worker}
    with console() as lines:
        ray.get(ray.remote(_fit).options(**resources).remote(job, lines))


def _fit(job: _Job, lines: Any) -> None:
    """Task: fit the prompt, score it, and write it; `lines` is the console's actor."""
    c, e = job.config, job.experiment
    encoder = load(job.encoder, job.vectors.open(), device_of(e.ray), e.embedding.mask == "inference")
    assert isinstance(encoder, LanguageModel)
    tuner = PromptTuner(encoder, c.tuning, c.seed)
    rows, positive_N = _labelled(head(job.rows, c.tuning.rows, job.labels), c.label)
    batches = balanced(positive_N, c.tuning.batch_size, c.seed)
    for step, chosen in enumerate(islice(batches, c.tuning.steps), 1):
        loss = tuner.step(rows.take(pa.array(chosen)), positive_N[chosen])
        if step % max(1, c.tuning.steps // LINES) == 0:
            lines.write.remote(f"tune_prompt: step {step}/{c.tuning.steps}  loss {loss:.3f}")
    found = None
    if job.scored is not None:
        score_N, truth_N = _scores(tuner, job)
        found = auc(truth_N, score_N) if {0.0, 1.0} <= {*truth_N.tolist()} else None
    description = PromptDescription(
        encoder=job.digest, label=c.label, vectors=c.tuning.vectors, steps=c.tuning.steps, auc=found
    )
    tensors = (each.detach().float().cpu() for each in (tuner.vector_PD, tuner.prototype_KW))
    SoftPrompt(description, *tensors).save(job.location)


def _scores(tuner: PromptTuner, job: _Job) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the rows that are scored, and whether they have the label; one row group at a time."""
    assert job.scored is not None
    rows, labels = job.scored
    tokens = job.experiment.embedding.tokens_per_batch
    found = [_labelled(read_group(file, group, labels), job.config.label) for file, group, _ in groups_of(rows)]
    return (
        np.concatenate([tuner.scores(table, tokens) for table, _ in found]),
        np.concatenate([positive_N for _, positive_N in found]),
    )


def _labelled(rows: pa.Table, label: str) -> tuple[pa.Table, np.ndarray]:
    """The rows, and for each whether it has the label: 1, 0, or NaN where that is undefined."""
    positive_N = rows[PREFIX + label].cast(pa.float64()).to_numpy()
    return rows, positive_N

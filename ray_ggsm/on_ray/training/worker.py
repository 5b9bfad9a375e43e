"""One training worker: what Ray Train runs on each of its processes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
from ray.train import Checkpoint

from ray_ggsm import progress, storage
from ray_ggsm.config import InputError, digest, identity
from ray_ggsm.encoders.kinds import Inputs, Run, new_learner
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.on_ray.training.pairs import stream
from ray_ggsm.training.divergence import DivergenceError
from ray_ggsm.training.logs import write_log
from ray_ggsm.training.loop import HEAD_ROWS, Trainer
from ray_ggsm.training.pairs import head, row_groups, training_pairs
from ray_ggsm.training.trackers.tracker import TrackedRun, Trackers, settings_of
from ray_ggsm.training.workers import ALONE, Workers, process_group

TRACKERS = "trackers.json"
"""File that says which trackers lack something of the run."""


@dataclass(frozen=True)
class TrainingJob:
    """What every training worker gets."""

    experiment: Experiment
    """Experiment whose number of training steps is filled in."""
    rows: str
    """Location of the behaviour pairs."""
    questions: str | None
    """Location of the query-answer pairs; None: none are trained on."""
    held_out: str | None
    """Location of the held-out pairs."""
    prepared: str
    """Name of the prepare stage's directory: the digest of the data."""
    location: str
    """Where encoders and logs go."""
    feature_names: tuple[str, ...]
    labels: str | None
    """Location of the behaviour pairs' labels; None: they are not trained on."""
    held_out_labels: str | None
    event_encoder_digest: str
    vectors: VectorStore
    """Store of event vectors."""
    event_width: int
    """Width of these vectors."""


class WorkerConfig(TypedDict):
    """What Ray Train hands to each worker."""

    job: TrainingJob
    lines: Any
    """The console's actor."""


def work(config: WorkerConfig) -> None:
    """Train as one of the workers.

    After a failure that would only repeat itself, Ray's restarted workers return at once.
    """
    job, lines = config["job"], config["lines"]
    if ray.get(lines.failed.remote()):
        return
    try:
        _train(job, lines)
    except DivergenceError as error:
        file = storage.join(job.location, f"diverged-{ray.train.get_context().get_world_rank()}.json")
        if error.rows is not None:
            storage.write_json(
                file, error.rows.cast(error.rows.schema.set(1, pa.field("as_of", pa.string()))).to_pylist()
            )
        ray.get(lines.fail.remote(DivergenceError(f"{error}; the batch's users are listed in {file}")))
        raise  # Ray ends the other workers
    except InputError as error:
        ray.get(lines.fail.remote(error))
        raise


def _train(job: TrainingJob, lines: Any) -> None:
    training = job.experiment.training
    workers = process_group() if ray.train.get_context().get_world_size() > 1 else ALONE
    trainer = _trainer(job, workers)
    _start(trainer, job, workers, lines)
    pairs = training_pairs(
        job.rows, job.questions, training.batch_size, training.question_rows, job.experiment.seed, job.labels
    )
    batches = stream(pairs, trainer.learner.step, training.total_steps, workers)
    with _tracked(job, workers, lines) as trackers:
        while not trainer.done:
            metrics = trainer.step(next(batches))
            trackers.log(metrics)
            if workers.rank == 0 and (text := progress.line(metrics, training.total_steps)):
                lines.write.remote(text)
            if int(metrics["step"]) % training.checkpoint_every == 0 or (trainer.done and training.held_out):
                _report(trainer, metrics, workers, job.location)
    trainer.learner.settle()
    if workers.rank == 0:
        trainer.learner.save_encoder(storage.join(job.location, "encoder"))
        _write_logs(trainer, job.location)


@contextmanager
def _tracked(job: TrainingJob, workers: Workers, lines: Any) -> Iterator[Trackers]:
    """The trackers of the run, which the first worker has; what they lack in the end is written down."""
    e, rank = job.experiment, workers.rank
    parts = {name: identity(getattr(e, name)) for name in ("model", "mask", "training", "seed")}
    run = TrackedRun(job.location.rsplit("/", 1)[-1], settings_of(parts))
    trackers, done = Trackers(e.training.trackers if rank == 0 else (), run, lines.write.remote), False
    try:
        yield trackers
        done = True
    finally:
        lacks = trackers.close(done)
        if rank == 0 and e.training.trackers:
            storage.write_json(storage.join(job.location, TRACKERS), lacks)


def _start(trainer: Trainer, job: TrainingJob, workers: Workers, lines: Any) -> None:
    """Go on from the last checkpoint, or begin with step 0 and save the untrained encoder."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            trainer.restore(directory)
        if workers.rank == 0:
            lines.write.remote(f"train: goes on from step {trainer.learner.step}")
        return
    trainer.learner.prepare()
    if workers.rank == 0:
        trainer.learner.save_encoder(storage.join(job.location, "untrained"))


def _trainer(job: TrainingJob, workers: Workers) -> Trainer:
    e = job.experiment
    if not e.ray.gpu:
        use_cpu(e.ray.cpus_per_train_worker)
    made_of = Inputs(
        e.modalities, job.feature_names, tuple(e.data.labels), job.event_width, job.event_encoder_digest,
        job.vectors.open(),
    )  # fmt: skip
    rows, device = head(job.rows, HEAD_ROWS), ray.train.torch.get_device()
    asked = head(job.questions, e.training.centre_rows) if job.questions else None
    run = Run(e.training, workers, e.seed, rows, e.data.snapshots.future_days, device, asked)
    learner, held_out = new_learner(e.model, e.resolved_mask(), made_of, run), e.training.held_out
    return Trainer(
        learner,
        e.training,
        workers,
        held_out=head(job.held_out, held_out.rows, job.held_out_labels) if held_out and job.held_out else None,
        identity={
            "model": digest(e.model),
            "mask": digest(e.mask),
            "training": digest(e.training, e.seed),
            "data snapshot": digest(
                job.prepared, row_groups(job.rows), *([row_groups(job.questions)] if job.questions else ())
            ),
            **learner.sources,
        },
    )


def _report(trainer: Trainer, metrics: dict[str, float], workers: Workers, location: str) -> None:
    """Report to Ray Train, with a checkpoint from the first worker, and bring the logs up to date."""
    with tempfile.TemporaryDirectory() as directory:
        trainer.save(directory)
        checkpoint = Checkpoint.from_directory(directory) if workers.rank == 0 else None
        ray.train.report(metrics, checkpoint=checkpoint)
    if workers.rank == 0:
        _write_logs(trainer, location)


def _write_logs(trainer: Trainer, location: str) -> None:
    write_log(trainer.log, location)
    trainer.learner.write_record(location)

"""The train job: contrastive fine-tuning on Ray Train, resumed from its last checkpoint.

The stage directory gets `encoder/`, `untrained/` (the same encoder at step 0), `log.json`, `log.parquet` and
`tensorboard/` (one entry per step), `mask.json` (the mask slot by slot), `runs/` (Ray Train's checkpoints) and
`run.json` (the settings).
"""

import signal
from collections.abc import Iterator

import ray
import ray.train
from ray.actor import ActorHandle
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ray_ggsm import storage
from ray_ggsm.changes import changes_of_training
from ray_ggsm.config import InputError, identity
from ray_ggsm.data import definition
from ray_ggsm.data.chunks import plan_chunks
from ray_ggsm.data.schema import definition_digest
from ray_ggsm.encoders.kinds import copy
from ray_ggsm.experiment import Experiment
from ray_ggsm.log import say
from ray_ggsm.masks.ggsm import ImportanceConfig
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.kinds import FoundConfig, SupervisedConfig
from ray_ggsm.model.pretrained import is_packed, pack
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.cluster.console import console
from ray_ggsm.on_ray.cluster.devices import training as training_workers
from ray_ggsm.on_ray.cluster.resources import kept_room, require
from ray_ggsm.on_ray.event_texts import EncodedEvents, EventEncoding, encode_events
from ray_ggsm.on_ray.training.worker import TRACKERS, TrainingJob, work
from ray_ggsm.stage_results import TrainResult
from ray_ggsm.stages import Pipeline, TrainStage, timed
from ray_ggsm.synthesis.questions import asked_of
from ray_ggsm.training.pairs import head, training_pairs
from ray_ggsm.training.questions import POINTER
from ray_ggsm.training.resume import unlike_runs
from ray_ggsm.training.trackers.config import check_installed


def train(pipeline: Pipeline) -> str:
    """Train the encoder; returns the stage's location. A finished stage is reused, an interrupted one goes on."""
    if not pipeline.train.result():
        _train(pipeline)
    if pipeline.experiment.training.pack and not is_packed(pipeline.train.encoder):
        with connected(pipeline.experiment):
            ray.get(ray.remote(pack).remote(SavedEncoder.read(pipeline.train.encoder)))
    return pipeline.train.location


def _train(pipeline: Pipeline) -> None:
    stage = pipeline.train
    summary, split = pipeline.prepare.require().summary, pipeline.experiment.data.train_split
    experiment = pipeline.experiment.resolved(summary.rows[split])
    _check(experiment, summary.rows)
    rows = pipeline.prepare.rows(split)
    training = experiment.training
    questions = _questions(pipeline, rows)
    # refuses too few rows before workers start
    training_pairs(rows, questions, training.batch_size, training.question_rows, experiment.seed, None)
    rows_are = definition.read_file(pipeline.prepare.definition)
    _check_old_space(experiment, rows_are.digest)
    for sentence in _remarks(pipeline, experiment):
        say(sentence)
    held_out = training.held_out
    with connected(experiment), timed(stage) as running, console() as lines:
        require(training_workers(experiment.ray), experiment.ray)
        events = _encode_events(pipeline, tuple(summary.features), questions)
        _check_event_encoder(experiment, events.digest)
        job = _job(pipeline, experiment, tuple(summary.features), questions, events)
        require(training_workers(experiment.ray), experiment.ray)  # nodes may have gone meanwhile
        with kept_room(training_workers(experiment.ray), experiment.ray):
            result = _fit(_ray_trainer(job, stage, lines))
        if failure := ray.get(lines.failed.remote()):
            raise failure
        for encoder in (stage.encoder, stage.untrained):
            definition.write(rows_are, encoder)
        publishes_best = held_out is not None and held_out.publish == "best"
        running.result = TrainResult(
            steps=experiment.training.total_steps,
            best_step=_publish_best(result, stage) if publishes_best and _trains(experiment) else None,
            trackers=storage.read_json(stage.path(TRACKERS)) if experiment.training.trackers else {},
            **events.counts.model_dump(),
        )


def _remarks(pipeline: Pipeline, experiment: Experiment) -> Iterator[str]:
    """What somebody would like to know before training starts."""
    if rounds_published_weights(experiment):
        yield (
            "train: with mask.calibration: none weights are close to .5, and model.dtype: bfloat16 rounds what sets"
            " them apart; set model.dtype: float32 to compare them with a constant"
        )
    yield from unlike_runs(pipeline.train.location, _pattern(pipeline.train), _settings(pipeline, experiment))


def _job(
    pipeline: Pipeline, experiment: Experiment, features: tuple[str, ...], questions: str | None, events: EncodedEvents
) -> TrainingJob:
    prepare, held_out = pipeline.prepare, experiment.training.held_out
    split, learns_labels = experiment.data.train_split, isinstance(experiment.model, SupervisedConfig)
    return TrainingJob(
        experiment=experiment,
        rows=prepare.rows(split),
        questions=questions,
        held_out=prepare.rows(held_out.split) if held_out else None,
        prepared=prepare.directory,
        location=pipeline.train.location,
        feature_names=features,
        labels=prepare.labels(split) if learns_labels else None,
        held_out_labels=prepare.labels(held_out.split) if learns_labels and held_out else None,
        event_encoder_digest=events.digest,
        vectors=events.vectors,
        event_width=events.vectors.open().width,
    )


def _questions(pipeline: Pipeline, rows: str) -> str | None:
    """Where the query-answer pairs are; None: training takes none.

    Raises:
        InputError: there are none yet, or they are of other rows than this experiment trains on, or of rows that say
            something else than the behaviour pairs.
    """
    config = pipeline.experiment.training.questions
    if config is None:
        return None
    if pipeline.questions is None:
        raise InputError(
            f"training.questions: {config.output} has no {POINTER}; run jobs/synthesize.py with it as output first"
        )
    pipeline.questions.check(asked_of(pipeline.experiment.data))
    found, expected = (head(place, 1).schema for place in (pipeline.questions.rows, rows))
    if definition_digest(found) != definition_digest(expected):
        raise InputError(
            f"training.questions: the rows in {pipeline.questions.rows} have other events or features than those in"
            f" {rows}; run jobs/synthesize.py on this experiment"
        )
    return pipeline.questions.rows


def rounds_published_weights(experiment: Experiment) -> bool:
    """Whether the published form of GG-SM would be computed in numbers too coarse for it."""
    mask, model = experiment.mask, experiment.model
    literal = isinstance(mask, ImportanceConfig) and mask.calibration == "none"
    return literal and isinstance(model, ModelConfig) and model.dtype == "bfloat16"


def _trains(experiment: Experiment) -> bool:
    """Whether there is anything to train."""
    mask = experiment.resolved_mask()
    return experiment.model.trains and (mask is None or mask.build().trains)


def _pattern(stage: TrainStage) -> str:
    return storage.join(stage.location.rsplit("/", 1)[0], f"{stage.name}-*")


def _settings(pipeline: Pipeline, e: Experiment) -> dict[str, object]:
    """What the results of training depend on beside the input files, as plain values."""
    settings: dict[str, object] = {
        name: identity(getattr(e, name)) for name in ("data", "model", "mask", "training", "seed")
    }
    if pipeline.questions is not None:
        settings["run of jobs/synthesize.py"] = pipeline.questions.digest
    if e.training.old_space is not None:
        settings["older encoder"] = SavedEncoder.read(e.training.old_space.encoder).digest
    return {**settings, "way of training": changes_of_training(e)}


def _check(experiment: Experiment, rows: dict[str, int]) -> None:
    training, workers = experiment.training, experiment.ray.train_workers
    check_installed(training.trackers)
    if training.batch_size < workers:
        raise InputError(f"training.batch_size: {training.batch_size} pairs are too few for {workers} training workers")
    asked = training.question_rows
    if asked and (fewest := min(asked, training.batch_size - asked) or asked) < workers:
        raise InputError(
            f"training.questions.share: of a batch of {training.batch_size} pairs {asked} are query-answer pairs, and "
            f"each of the {workers} training workers needs one of both kinds; {fewest} of one kind are too few"
        )
    held_out, model = training.held_out, experiment.model
    if held_out is not None and held_out.patience is not None and isinstance(model, FoundConfig) and model.first_stage:
        raise InputError(
            "training.held_out.patience: the held-out loss of found is that of its second stage, and the first one "
            "would end training; leave patience out, or set model.first_stage: 0"
        )
    if held_out is not None and (n := min(held_out.rows, rows[held_out.split])) < max(workers, 2):
        raise InputError(
            f"training.held_out: {n} rows of '{held_out.split}' are too few; two are needed, and one for each of the"
            f" {workers} training workers"
        )


def _check_old_space(experiment: Experiment, rows: str) -> None:
    """Refuse an older encoder of other rows; `rows` is their definition's digest."""
    old_space = experiment.training.old_space
    found = definition.read(old_space.encoder) if old_space else None
    if old_space and (found is None or found.digest != rows):
        why = "has no rows.json" if found is None else "was trained on rows that are made otherwise"
        raise InputError(
            f"training.old_space: the encoder in {old_space.encoder} {why}, so it cannot read these rows; give "
            "data.definition its file rows.json, or leave old_space out and let publishing.compatible map the vectors"
        )


def _check_event_encoder(experiment: Experiment, digest: str) -> None:
    """Refuse an older encoder that reads the event vectors of another event encoder than the one with this digest;
    some read none."""
    old_space = experiment.training.old_space
    if old_space and SavedEncoder.read(old_space.encoder).description.event_encoder_digest not in ("", digest):
        raise InputError(
            f"training.old_space: the encoder in {old_space.encoder} reads vectors of another event encoder than "
            "model.event_encoder; take the same, or leave old_space out and let publishing.compatible map the vectors"
        )


def _encode_events(pipeline: Pipeline, features: tuple[str, ...], questions: str | None) -> EncodedEvents:
    """Vectors for all events of the training and held-out rows, futures included."""
    e, held_out = pipeline.experiment, pipeline.experiment.training.held_out
    splits = [e.data.train_split, *([held_out.split] if held_out else [])]
    places = [*(pipeline.prepare.rows(split) for split in splits), *([questions] if questions else [])]
    files = [file for place in places for file in storage.list_files(place, ".parquet")]
    modalities = list(e.data.modalities)
    chunks = plan_chunks(files, e.embedding.rows_per_chunk, modalities, len(features))
    encoding = EventEncoding(e.model.event_encoder, None, pipeline.event_vectors, e.ray)
    return encode_events(encoding, chunks, [*modalities, "future"])


def _ray_trainer(job: TrainingJob, stage: TrainStage, lines: ActorHandle) -> TorchTrainer:
    storage_fs, storage_path = storage.arrow_filesystem(stage.checkpoints)
    r, has_best = job.experiment.ray, job.experiment.training.held_out is not None
    return TorchTrainer(
        work,
        train_loop_config={"job": job, "lines": lines},
        scaling_config=ScalingConfig(
            num_workers=r.train_workers,
            use_gpu=r.gpu,
            resources_per_worker={"CPU": r.cpus_per_train_worker, **({"GPU": 1} if r.gpu else {})},
        ),
        run_config=RunConfig(
            name="train",
            storage_path=storage_path,
            storage_filesystem=storage_fs,
            failure_config=FailureConfig(max_failures=r.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=job.experiment.training.keep_checkpoints,
                checkpoint_score_attribute="held_out_loss" if has_best else None,
                checkpoint_score_order="min",
            ),
        ),
    )


def _publish_best(result: ray.train.Result, stage: TrainStage) -> int:
    """Put the checkpoint with the lowest held-out loss in the place of the final encoder; returns its step."""
    scored = [(metrics["held_out_loss"], checkpoint) for checkpoint, metrics in result.best_checkpoints or []]
    _, checkpoint = min(scored, key=lambda pair: pair[0])
    with checkpoint.as_directory() as directory:
        return copy(directory, stage.encoder)


def _fit(trainer: TorchTrainer) -> ray.train.Result:
    """`fit`, with Ctrl-C as everywhere else: Ray Train would answer it with exit code 0, and keep its handler after."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)

"""The train stage: contrastive fine-tuning on Ray Train, resumed from its last checkpoint.

The stage directory gets `encoder/`, `untrained/` (the same encoder at step 0), `log.json`, `log.parquet` and
`tensorboard/` (one entry per step), `mask.json` (the mask slot by slot), `runs/` (Ray Train's checkpoints) and
`run.json` (the settings).
"""

import signal
import tempfile
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.data.summary import DataSummary
from ray_ggsm.experiment import Experiment, Stage, stages
from ray_ggsm.masks import build
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.model.template import Modality
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.console import console
from ray_ggsm.on_ray.events import encode_events
from ray_ggsm.on_ray.pairs import stream
from ray_ggsm.on_ray.plan import plan
from ray_ggsm.on_ray.stages import interrupted, timed
from ray_ggsm.training.logs import write_log
from ray_ggsm.training.loop import HEAD_ROWS, DivergenceError, Trainer
from ray_ggsm.training.pairs import Pairs, head, snapshot
from ray_ggsm.training.progress import line
from ray_ggsm.training.workers import ALONE, Workers, process_group

TRAINED = "pretrain"
"""Stage of prepared rows that the pairs come from."""


def train(experiment: Experiment) -> str:
    """Train the encoder; returns the stage's location. A finished stage is reused, an interrupted one goes on."""
    place = stages(experiment)
    stage = place["train"]
    if stage.result():
        return stage.location
    summary = DataSummary.from_json(place["prepare"].require("jobs/prepare.py")["summary"])
    rows = place["prepare"].path("rows", TRAINED)
    experiment = experiment.resolved(summary.rows[TRAINED])
    _check(experiment, summary.rows)
    Pairs(rows, experiment.training.batch_size, experiment.seed)  # refuses too few rows before workers start
    settings = experiment.model_dump(mode="json", include={"data", "model", "mask", "training", "seed"})
    for note in interrupted(stage, settings):
        print(note, flush=True)
    held_out = experiment.training.held_out
    tables = [rows, *([place["prepare"].path("rows", held_out.stage)] if held_out else [])]
    with connected(experiment), timed(stage) as results, console() as lines:
        files = [file for table in tables for file in storage.list_files(table, ".parquet")]
        names = list(experiment.data.modalities)
        blocks = plan(files, experiment.embedding.rows_per_block, names, len(summary.features))
        events = encode_events(experiment, blocks, [*names, "future"])
        shared = {
            "experiment": experiment.model_dump_json(),
            "rows": rows,
            "held_out": tables[-1],
            "console": lines,
            "location": stage.location,
            "prepared": place["prepare"].location,
            "feature_names": summary.features,
            "event_encoder_digest": events.digest,
            "store": events.store,
            "event_width": events.store.open().width,
        }
        result = _fit(_ray_trainer(experiment, stage, shared))
        if failure := ray.get(lines.failed.remote()):
            raise failure
        if held_out and held_out.publish == "best" and build(experiment.resolved_mask()).trains:
            results["best_step"] = _publish_best(result, stage)
        results.update(events.counts())
        results["steps"] = experiment.training.total_steps
    return stage.location


def _check(experiment: Experiment, rows: dict[str, int]) -> None:
    training, workers = experiment.training, experiment.ray.train_workers
    if training.batch_size < workers:
        raise InputError(f"training.batch_size: {training.batch_size} pairs are too few for {workers} training workers")
    others = [name for name in experiment.data.stages_with_future if name != TRAINED]
    if training.held_out and training.held_out.stage not in others:
        raise InputError(
            f"training.held_out.stage: '{training.held_out.stage}' carries no future to compare with; expected one of"
            f" the stages with `future: true` ({', '.join(others) or 'none yet'}), other than '{TRAINED}'"
        )

    if training.held_out and (n := min(training.held_out.rows, rows[training.held_out.stage])) < max(workers, 2):
        raise InputError(
            f"training.held_out: {n} rows of '{training.held_out.stage}' are too few; two are needed, and one for each"
            f" of the {workers} training workers"
        )


def _ray_trainer(experiment: Experiment, stage: Stage, shared: dict[str, Any]) -> TorchTrainer:
    storage_fs, storage_path = storage.arrow_filesystem(stage.path("runs"))
    r, best = experiment.ray, experiment.training.held_out is not None
    return TorchTrainer(
        _worker,
        train_loop_config=shared,
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
                num_to_keep=experiment.training.keep_checkpoints,
                checkpoint_score_attribute="held_out_loss" if best else None,
                checkpoint_score_order="min",
            ),
        ),
    )


def _publish_best(result: ray.train.Result, stage: Stage) -> int:
    """Put the checkpoint with the lowest held-out loss in the place of the final encoder; returns its step."""
    scored = [(metrics["held_out_loss"], checkpoint) for checkpoint, metrics in result.best_checkpoints or []]
    _, checkpoint = min(scored, key=lambda pair: pair[0])
    with checkpoint.as_directory() as directory:
        best = saved.load(directory, torch.device("cpu"))
    saved.save(best, stage.path("encoder"))
    return best.step


def _fit(trainer: TorchTrainer) -> ray.train.Result:
    """`fit`, with Ctrl-C as everywhere else: Ray Train would answer it with exit code 0, and keep its handler after."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return trainer.fit()
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


def _worker(shared: dict[str, Any]) -> None:
    """One training worker. After a failure that would only repeat itself, Ray's restarted workers return at once."""
    if ray.get(shared["console"].failed.remote()):
        return
    try:
        _train(shared)
    except DivergenceError as error:
        where = storage.join(shared["location"], f"diverged-{ray.train.get_context().get_world_rank()}.json")
        if error.rows is not None:
            storage.write_json(
                where, error.rows.cast(error.rows.schema.set(1, pa.field("as_of", pa.string()))).to_pylist()
            )
        ray.get(shared["console"].fail.remote(DivergenceError(f"{error}; the batch's users are listed in {where}")))
        raise  # Ray ends the other workers
    except InputError as error:
        ray.get(shared["console"].fail.remote(error))
        raise


def _train(shared: dict[str, Any]) -> None:
    experiment = Experiment.model_validate_json(shared["experiment"])
    training, location = experiment.training, shared["location"]
    workers = process_group() if ray.train.get_context().get_world_size() > 1 else ALONE
    trainer = _trainer(experiment, shared, workers)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            trainer.restore(directory)
        if workers.rank == 0:
            shared["console"].write.remote(f"train: goes on from step {trainer.trained.step}")
    else:
        trainer.prepare()
        if workers.rank == 0:
            saved.save(trainer.trained, storage.join(location, "untrained"))
    pairs = Pairs(shared["rows"], training.batch_size, experiment.seed)
    batches = stream(pairs, trainer.trained.step, training.total_steps, workers)
    while not trainer.done:
        metrics = trainer.step(next(batches))
        if workers.rank == 0 and (text := line(metrics, training.total_steps)):
            shared["console"].write.remote(text)
        if int(metrics["step"]) % training.checkpoint_every == 0 or (trainer.done and training.held_out):
            _report(trainer, metrics, workers, location)
    trainer.centre()
    if workers.rank == 0:
        saved.save(trainer.trained, storage.join(location, "encoder"))
        _write_logs(trainer, location)


def _trainer(experiment: Experiment, shared: dict[str, Any], workers: Workers) -> Trainer:
    if not experiment.ray.gpu:
        use_cpu(experiment.ray.cpus_per_train_worker)
    trained = saved.new_encoder(
        experiment.model,
        experiment.resolved_mask(),
        tuple(Modality(name, modality.keep) for name, modality in experiment.data.modalities.items()),
        tuple(shared["feature_names"]),
        shared["event_width"],
        shared["event_encoder_digest"],
        experiment.seed,
    )
    trained.encoder.to(ray.train.torch.get_device())
    held_out = experiment.training.held_out
    return Trainer(
        trained,
        Collator(trained.encoder.template, trained.tokenizer, shared["store"].open()),
        experiment.training,
        workers,
        experiment.seed,
        head=head(shared["rows"], HEAD_ROWS),
        held_out=head(shared["held_out"], held_out.rows) if held_out else None,
        identity={
            "model": digest(experiment.model),
            "mask": digest(experiment.mask),
            "training": digest(experiment.training, experiment.seed),
            "data snapshot": digest(shared["prepared"].rsplit("/", 1)[-1], snapshot(shared["rows"])),
            "backbone": trained.backbone_digest,
            "event encoder": trained.event_encoder_digest,
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
    mask = trainer.mask_log.describe(trainer.trained.mask.model_dump(mode="json"))
    storage.write_json(storage.join(location, "mask.json"), mask)

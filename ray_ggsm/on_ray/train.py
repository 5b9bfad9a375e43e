"""The train stage: contrastive fine-tuning on Ray Train, resumed from its last checkpoint.

The stage directory gets `encoder/` (final), `untrained/` (the same encoder at step 0), `log.json` (one entry per step),
`mask.json` (the mask slot by slot) and `runs/` (Ray Train's checkpoints).
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
from ray_ggsm.config import InputError
from ray_ggsm.experiment import Experiment, stages
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.template import Modality
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.console import console
from ray_ggsm.on_ray.events import encode_events
from ray_ggsm.on_ray.stages import timed
from ray_ggsm.training.loop import HEAD_ROWS, DivergenceError, Trainer
from ray_ggsm.training.pairs import Pairs
from ray_ggsm.training.progress import line
from ray_ggsm.training.workers import ALONE, Workers, process_group


def train(experiment: Experiment) -> str:
    """Train the encoder; returns the stage's location. A finished stage is reused, an interrupted one goes on."""
    place = stages(experiment)
    stage = place["train"]
    if stage.result():
        return stage.location
    summary = place["prepare"].require("jobs/prepare.py")["summary"]
    rows = place["prepare"].path("rows", "pretrain")
    modalities = experiment.data.modalities
    Pairs(rows, experiment.training.batch_size, experiment.seed)  # refuses too few rows before workers start
    with connected(experiment), timed(stage) as results, console() as lines:
        files = storage.list_files(rows, ".parquet")
        _, digest, vectors = encode_events(experiment, files, [*modalities, "future"])
        shared = {
            "experiment": experiment.model_dump_json(),
            "rows": rows,
            "console": lines,
            "location": stage.location,
            "feature_names": summary["features"],
            "event_encoder_digest": digest,
            "vectors": ray.put(vectors),
            "event_width": vectors.vector_NH.shape[1],
        }
        storage_fs, storage_path = storage.arrow_filesystem(stage.path("runs"))
        r = experiment.ray
        trainer = TorchTrainer(
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
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        _fit(trainer)
        if failure := ray.get(lines.failed.remote()):
            raise failure
        results["steps"] = experiment.training.steps
    return stage.location


def _fit(trainer: TorchTrainer) -> None:
    """`fit`, with Ctrl-C as everywhere else: Ray Train would answer it with exit code 0, and keep its handler after."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
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
    except (InputError, DivergenceError) as error:
        ray.get(shared["console"].fail.remote(error))
        raise  # Ray ends the other workers


def _train(shared: dict[str, Any]) -> None:
    experiment = Experiment.model_validate_json(shared["experiment"])
    workers = process_group() if ray.train.get_context().get_world_size() > 1 else ALONE
    pairs = Pairs(shared["rows"], experiment.training.batch_size, experiment.seed)
    trainer = _trainer(experiment, shared, workers, pairs.head(HEAD_ROWS))
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            trainer.restore(directory)
    else:
        trainer.prepare()
        if workers.rank == 0:
            saved.save(trainer.trained, storage.join(shared["location"], "untrained"))
    every = experiment.training.checkpoint_every
    while not trainer.done:
        metrics = trainer.step(pairs.batch(trainer.trained.step, workers.rank, workers.size))
        if workers.rank == 0 and (text := line(metrics, experiment.training.steps)):
            shared["console"].write.remote(text)
        if int(metrics["step"]) % every == 0 and not trainer.done:
            _report(trainer, metrics, workers)
    trainer.centre()
    if workers.rank == 0:
        saved.save(trainer.trained, storage.join(shared["location"], "encoder"))
        storage.write_json(storage.join(shared["location"], "log.json"), trainer.log)
        mask = trainer.mask_log.describe(trainer.trained.mask.model_dump(mode="json"))
        storage.write_json(storage.join(shared["location"], "mask.json"), mask)


def _trainer(experiment: Experiment, shared: dict[str, Any], workers: Workers, head: pa.Table) -> Trainer:
    if not experiment.ray.gpu:
        torch.set_num_threads(experiment.ray.cpus_per_train_worker)
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
    collator = Collator(trained.encoder.template, trained.tokenizer, ray.get(shared["vectors"]))
    return Trainer(trained, head, collator, experiment.training, workers, experiment.seed)


def _report(trainer: Trainer, metrics: dict[str, float], workers: Workers) -> None:
    """Report to Ray Train, with a checkpoint from the first worker."""
    with tempfile.TemporaryDirectory() as directory:
        trainer.save(directory)
        checkpoint = Checkpoint.from_directory(directory) if workers.rank == 0 else None
        ray.train.report(metrics, checkpoint=checkpoint)

"""The embed stage: user rows -> staged vectors -> gates -> one version of the stage's embedding table.

The stage directory gets `table/` (a Delta table), `staging/blocks/` (one file per finished block of the input),
`staging/dead_letters/` (rejected rows, with reasons) and `report.json|html` (what the run did). Staged blocks are
removed when the version is published.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.embedding.config import EmbeddingConfig
from ray_ggsm.experiment import Experiment, stages
from ray_ggsm.on_ray.blocks import Job
from ray_ggsm.on_ray.buckets import fill_buckets, judge_and_publish
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.encode import embed_blocks
from ray_ggsm.on_ray.events import EncodedEvents, encode_events
from ray_ggsm.on_ray.marks import Marks
from ray_ggsm.on_ray.plan import THREADS, plan, read_footer
from ray_ggsm.on_ray.run_report import RunReport, reported
from ray_ggsm.on_ray.stages import timed
from ray_ggsm.tables import open_table, publish


def embed(experiment: Experiment, publish_anyway: str | None = None) -> str:
    """Publish an embedding table; returns its location. A finished stage is reused, an interrupted one goes on.

    Raises:
        GateError: a gate failed, and there is no reason to publish anyway.
    """
    place = stages(experiment)
    stage = place["embed"]
    location = stage.path("table")
    if stage.result():
        return location
    files = _input(experiment)
    place["train"].require("jobs/train.py")
    encoder = place["train"].path("encoder" if experiment.embedding.checkpoint == "final" else "untrained")
    described = describe_encoder(encoder, experiment.embedding)
    run = stage.location.rsplit("/", 1)[-1]
    report = RunReport("embed", location, run)
    with connected(experiment), timed(stage) as results, reported(report, stage.location):
        names = modalities(described)
        blocks = plan(files, experiment.embedding.rows_per_block, names, len(described["feature_names"]))
        rows = sum(block.rows for block in blocks)
        with report.step("events"):
            events = encode_events(experiment, blocks, names, described["event_encoder_digest"])
        job = new_job(
            experiment, encoder, described, events,
            run=run, staging=stage.path("staging"), buckets=buckets_for(experiment, rows),
        )  # fmt: skip
        report.version = publish.published_version(location, run)
        if report.version is None:
            with report.step("encode"):
                report.encoded(embed_blocks(job, experiment.ray, blocks, "embed"))
            with report.step("fill"):
                staged = fill_buckets(job, blocks, location, experiment.publishing)
            with report.step("publish"):
                judge_and_publish(
                    location, staged, job=job, config=experiment.publishing, previous=None, comparable=False,
                    expected_rows=rows * len(experiment.embedding.instructions), dead_letters=dead_letters(job),
                    metadata=said(experiment, described), anyway=publish_anyway, report=report,
                )  # fmt: skip
        storage.remove(storage.join(job.staging, "blocks"))
        counts = open_table(location).metadata()["counts"]
        report.counts |= {"blocks": len(blocks), **events.counts()}
        report.outcome = f"{counts['written']:,} rows published, {counts['dead_letters']:,} dead letters"
        print(f"embed: {report.outcome}", flush=True)
        results.update(rows=counts["written"], dead_letters=counts["dead_letters"], table=location, **events.counts())
    return location


def describe_encoder(encoder: str, config: EmbeddingConfig) -> dict[str, Any]:
    """What the saved encoder says about itself; prints a sentence when its mask stopped half-way.

    Raises:
        InputError: no encoder is there.
    """
    file = storage.join(encoder, "encoder.json")
    if not storage.exists(file):
        raise InputError(f"{encoder}: no saved encoder here (encoder.json is missing); run jobs/train.py first")
    described: dict[str, Any] = storage.read_json(file)
    if described["alpha"] < 1:
        stands = f"the encoder's mask stands at alpha {described['alpha']:.2f} (step {described['step']})"
        used = "it is used as it is; embedding.mask: inference would use the recipe's final mask"
        opened = "embedding.mask: inference opens it all the same"
        print(f"embed: {stands}, and {used}" if config.mask == "trained" else f"embed: {stands}; {opened}", flush=True)
    return described


def modalities(described: dict[str, Any]) -> list[str]:
    """The columns of events that an encoder reads."""
    return [modality["name"] for modality in described["modalities"]]


def new_job(
    experiment: Experiment,
    encoder: str,
    described: dict[str, Any],
    events: EncodedEvents,
    *,
    run: str,
    staging: str,
    buckets: int,
    known: Marks | None = None,
) -> Job:
    """Everything that blocks need."""
    return Job(
        experiment.embedding, experiment.data.max_text_length, encoder, digest(described), run, staging, buckets,
        tuple(modalities(described)), len(described["feature_names"]),
        events.store, known,
    )  # fmt: skip


def buckets_for(experiment: Experiment, rows: int) -> int:
    """Buckets of a new table."""
    return max(1, -(-rows * len(experiment.embedding.instructions) // experiment.publishing.rows_per_bucket))


def dead_letters(job: Job) -> int:
    """Vectors that are missing for rejected rows, which count once per instruction."""
    files = storage.list_files(storage.join(job.staging, "dead_letters"), ".parquet")
    each = len(job.embedding.instructions)
    with ThreadPoolExecutor(THREADS) as pool:
        counts = [footer.num_rows for footer in pool.map(read_footer, files)]
    return sum(n * (each if f.endswith("-invalid.parquet") else 1) for f, n in zip(files, counts, strict=True))


def said(experiment: Experiment, described: dict[str, Any]) -> dict[str, Any]:
    """What a version's metadata tell of how it was made."""
    return {
        "config": experiment.embedding.model_dump(mode="json"),
        "encoder_description": {key: described[key] for key in ("mask", "step", "alpha", "template_digest")},
    }


def _input(experiment: Experiment) -> list[str]:
    place, files = stages(experiment)["prepare"], []
    for name in experiment.embedding.stages:
        if name not in experiment.data.stages:
            known = ", ".join(experiment.data.stages)
            raise InputError(f"embedding.stages: there is no stage '{name}' in data.stages; it has {known}")
    place.require("jobs/prepare.py")
    for name in experiment.embedding.stages:
        files += storage.list_files(place.path("rows", name), ".parquet")
    return files

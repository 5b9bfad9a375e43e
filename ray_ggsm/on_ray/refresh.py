"""The scheduled job: bring a long-lived embedding table up to date with today's user rows, in one new version.

Only users whose rows say something new (content hash) are encoded; the others keep their vector, with the `as_of` it
was made for, and buckets without a change keep their file. Users who are no longer in the input leave the table. With
another encoder everybody is encoded again.
"""

import time
from typing import Any

import ray

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.experiment import Experiment, RefreshConfig
from ray_ggsm.on_ray.blocks import embed_blocks, known_rows, plan
from ray_ggsm.on_ray.buckets import fill_buckets, judge_and_publish
from ray_ggsm.on_ray.cluster import connected
from ray_ggsm.on_ray.embed import buckets_for, dead_letters, describe_encoder, new_job, said
from ray_ggsm.on_ray.events import encode_events
from ray_ggsm.on_ray.lock import held
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.reader import EmbeddingTable


def refresh(experiment: Experiment, publish_anyway: str | None = None) -> int:
    """Publish a new version of `refresh.table`, if anything changed; returns the newest version.

    Raises:
        InputError: there is no `refresh` section, no input, or another refresh of this table is running.
        GateError: a gate failed, and there is no reason to publish anyway.
    """
    config = experiment.refresh
    if config is None:
        raise InputError("refresh: this section is missing; it names rows, encoder and table")
    files = storage.glob(config.rows)
    if not files:
        raise InputError(f"refresh.rows: no file matches '{config.rows}'")
    table = storage.absolute(config.table)
    with connected(experiment), held(storage.join(table, "refresh.lock")):
        return _refresh(experiment, config, files, table, publish_anyway)


def _refresh(experiment: Experiment, config: RefreshConfig, files: list[str], table: str, anyway: str | None) -> int:
    started = time.monotonic()
    described = describe_encoder(config.encoder, experiment.embedding)
    previous = open_table(table) if delta.exists(table) else None
    snapshot = [(file, *_state(file)) for file in files]
    fingerprint = digest(described, experiment.embedding, snapshot, previous.version if previous else -1)
    run = f"refresh-{fingerprint}"
    blocks = plan(files, experiment.embedding.rows_per_block)
    rows = sum(block.rows for block in blocks)
    events = encode_events(experiment, files, [m["name"] for m in described["modalities"]])
    job = new_job(
        experiment, config.encoder, described, events,
        run=run, staging=storage.join(table, "staging", run),
        buckets=previous.buckets if previous else buckets_for(experiment, rows), known=_known(previous, described),
    )  # fmt: skip
    print(f"refresh: {rows:,} rows in {len(blocks)} blocks; {table} is at {_version(previous)}; run {run}", flush=True)
    embed_blocks(job, blocks)
    filled = fill_buckets(job, blocks, table, experiment.publishing, previous)
    dead = dead_letters(job)
    if previous and all(f.kept for f in filled) and not dead:
        print("refresh: nothing changed; no new version", flush=True)
        storage.remove(job.staging)
        return previous.version
    version, _ = judge_and_publish(
        table, filled, job=job, config=experiment.publishing, previous=previous,
        expected_rows=rows * len(experiment.embedding.instructions), dead_letters=dead,
        metadata={**said(experiment, described), "input": {"rows": config.rows, "digest": digest(snapshot)}},
        anyway=anyway,
    )  # fmt: skip
    storage.remove(storage.join(job.staging, "blocks"))
    counts = open_table(table).metadata(version)["counts"]
    print(
        f"refresh: version {version}: {counts['written']:,} rows, {counts['encoded']:,} of them encoded now, "
        f"{counts['departed']:,} departed, {dead:,} dead letters, {sum(f.kept for f in filled)} of {len(filled)} files "
        f"kept; {time.monotonic() - started:.0f} s",
        flush=True,
    )
    return version


def _known(previous: EmbeddingTable | None, described: dict[str, Any]) -> Any:
    """What the table has from this encoder; None when nothing can be kept."""
    if previous is None or previous.metadata().get("encoder") != digest(described):
        return None
    rows = previous.read(columns=["user_id", "instruction", "content"])
    return ray.put(known_rows(rows["user_id"], rows["instruction"], rows["content"].to_numpy()))


def _version(previous: EmbeddingTable | None) -> str:
    return f"version {previous.version}" if previous else "no version yet"


def _state(file: str) -> tuple[int, str]:
    """Size, and when or as what it was written."""
    fs, path = storage.filesystem(file)
    info = fs.info(path)
    return info["size"], str(info.get("ETag") or info.get("mtime"))

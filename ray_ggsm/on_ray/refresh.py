"""The scheduled job: bring a long-lived embedding table up to date with today's user rows, in one new version.

Only users whose rows say something new (content hash) are encoded; the others keep their vector, with the `as_of` it
was made for, and buckets without a change keep their file. Users who are no longer in the input leave the table. With
another encoder everybody is encoded again.
"""

from typing import Any

from ray_ggsm import storage
from ray_ggsm.config import InputError, digest
from ray_ggsm.embedding.config import EmbeddingConfig
from ray_ggsm.experiment import Experiment, RefreshConfig
from ray_ggsm.on_ray.buckets import fill_buckets, judge_and_publish
from ray_ggsm.on_ray.cluster import check_place, connected
from ray_ggsm.on_ray.embed import buckets_for, dead_letters, describe_encoder, modalities, new_job, said
from ray_ggsm.on_ray.encode import embed_blocks
from ray_ggsm.on_ray.events import encode_events
from ray_ggsm.on_ray.lock import held
from ray_ggsm.on_ray.marks import known_marks
from ray_ggsm.on_ray.plan import plan
from ray_ggsm.on_ray.run_report import RunReport, reported
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.reader import EmbeddingTable


def refresh(experiment: Experiment, publish_anyway: str | None = None) -> int:
    """Publish a new version of `refresh.table`, if anything changed; returns the newest version.

    Raises:
        InputError: there is no `refresh` section, no input, or another refresh of this table is running.
        GateError: a gate failed, and there is no reason to publish anyway.
    """
    config, files = _input(experiment)
    table = storage.absolute(config.table)
    with connected(experiment):
        check_place("refresh.table", config.table)
        with held(storage.join(table, "refresh.lock")):
            return _refresh(experiment, config, files, table, publish_anyway)


def preview(experiment: Experiment) -> str:
    """What a refresh would read and where it would write; raises like `refresh`, before anything is done."""
    config, files = _input(experiment)
    table, described = storage.absolute(config.table), describe_encoder(config.encoder, experiment.embedding)
    size = len(described["feature_names"])
    blocks = plan(files, experiment.embedding.rows_per_block, modalities(described), size)
    rows = sum(block.rows for block in blocks)
    at = f"at version {open_table(table).version}" if delta.exists(table) else "not there yet"
    return f"refresh: {rows:,} rows in {len(files):,} files and {len(blocks):,} blocks; {table} is {at}"


def _input(experiment: Experiment) -> tuple[RefreshConfig, list[str]]:
    config = experiment.refresh
    if config is None:
        raise InputError("refresh: this section is missing; it names rows, encoder and table")
    files = storage.glob(config.rows)
    if not files:
        raise InputError(f"refresh.rows: no file matches '{config.rows}'")
    return config, files


def _refresh(experiment: Experiment, config: RefreshConfig, files: list[str], table: str, anyway: str | None) -> int:
    encoder = storage.absolute(config.encoder)
    described = describe_encoder(encoder, experiment.embedding)
    previous = open_table(table) if delta.exists(table) else None
    names, snapshot = modalities(described), _snapshot(files)
    blocks = plan(files, experiment.embedding.rows_per_block, names, len(described["feature_names"]))
    rows = sum(block.rows for block in blocks)
    buckets = previous.buckets if previous else buckets_for(experiment, rows)
    # everything that staged blocks and data files depend on
    run = "refresh-" + digest(
        described, experiment.embedding, experiment.publishing.files, experiment.data.max_text_length, buckets,
        snapshot, previous.version if previous else -1,
    )  # fmt: skip
    comparable = previous is not None and _comparable(previous, described, experiment.embedding)
    at = f"version {previous.version}" if previous else "no version yet"
    print(f"refresh: {rows:,} rows in {len(blocks)} blocks; {table} is at {at}; run {run}", flush=True)
    with reported(RunReport("refresh", table, run), storage.join(table, "runs", run)) as report:
        with report.step("events"):
            events = encode_events(experiment, blocks, names, described["event_encoder_digest"])
        with report.step("compare"):
            known = known_marks(previous) if previous and comparable else None
        job = new_job(
            experiment, encoder, described, events, run=run, staging=storage.join(table, "staging", run),
            buckets=buckets, known=known,
        )  # fmt: skip
        with report.step("encode"):
            report.encoded(embed_blocks(job, experiment.ray, blocks, "refresh"))
        with report.step("fill"):
            staged = fill_buckets(job, blocks, table, experiment.publishing, previous, one_row_each=True)
        dead = dead_letters(job)
        report.counts |= {"blocks": len(blocks), **events.counts()}
        if _snapshot(files) != snapshot:
            raise InputError(
                f"refresh.rows: {config.rows} changed while it was read; nothing was published; start again"
            )
        if previous and staged.unchanged and dead == previous.metadata().get("counts", {}).get("dead_letters"):
            report.outcome = "nothing changed; no new version"
            print(f"refresh: {report.outcome}", flush=True)
            storage.remove(job.staging)
            return previous.version
        with report.step("publish"):
            version = judge_and_publish(
                table, staged, job=job, config=experiment.publishing, previous=previous, comparable=comparable,
                expected_rows=rows * len(experiment.embedding.instructions), dead_letters=dead,
                metadata={**said(experiment, described), "input": {"rows": config.rows, "digest": digest(snapshot)}},
                anyway=anyway, report=report,
            )  # fmt: skip
        storage.remove(storage.join(job.staging, "blocks"))
        counts = open_table(table).metadata(version)["counts"]
        report.outcome = (
            f"version {version}: {counts['written']:,} rows, {counts['encoded']:,} of them encoded now, "
            f"{counts['departed']:,} departed, {dead:,} dead letters, {sum(f.kept for f in staged.buckets)} of "
            f"{len(staged.buckets)} files kept"
        )
        print(f"refresh: {report.outcome}; {sum(report.seconds.values()):.0f} s", flush=True)
        return version


def _comparable(previous: EmbeddingTable, described: dict[str, Any], config: EmbeddingConfig) -> bool:
    """Whether an unchanged row would get the vector that the table has."""
    said = previous.metadata()
    return said.get("encoder") == digest(described) and said.get("config", {}).get("mask") == config.mask


def _snapshot(files: list[str]) -> list[tuple[str, int, str]]:
    """Of each file its size, and when or as what it was written."""
    states = []
    for file in files:
        fs, path = storage.filesystem(file)
        fs.invalidate_cache()
        try:
            info = fs.info(path)
        except FileNotFoundError:
            raise InputError(f"refresh.rows: {file} was removed while it was read; nothing was published") from None
        states.append((file, info["size"], str(info.get("ETag") or info.get("mtime"))))
    return states

"""The embed job: user rows of an experiment's splits -> one version of the stage's embedding table.

The stage directory gets `table/` (a Delta table), `staging/` (rows by bucket until they are published, and dead letters
with their reasons) and `report.json|html` (what the run did).
"""

from ray_ggsm import storage
from ray_ggsm.building.report import RunReport, reported
from ray_ggsm.config import InputError
from ray_ggsm.data.definition import read
from ray_ggsm.log import say
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.building.given_rows import GivenRows
from ray_ggsm.on_ray.building.request import VersionRequest, buckets_for, print_half_open_mask
from ray_ggsm.on_ray.building.version import build_version
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.cluster.devices import encoders
from ray_ggsm.on_ray.cluster.resources import require
from ray_ggsm.on_ray.event_texts import EventEncoding
from ray_ggsm.stage_results import EmbedResult
from ray_ggsm.stages import Pipeline, timed


def embed(pipeline: Pipeline, publish_anyway: str | None = None) -> str:
    """Publish an embedding table; returns its location. A finished stage is reused, an interrupted one goes on.

    `publish_anyway` is the reason for publishing although gates fail; None: publish only if all pass.

    Raises:
        InputError: the stages before are not finished, or their rows do not fit the encoder.
        GateError: a gate failed, and there is no reason to publish anyway.
    """
    stage = pipeline.embed
    if stage.result():
        return stage.table
    files = _input(pipeline)
    pipeline.train.require()
    is_final = pipeline.experiment.embedding.checkpoint == "final"
    encoder = SavedEncoder.read(pipeline.train.encoder if is_final else pipeline.train.untrained)
    print_half_open_mask("embed", encoder, pipeline.experiment.embedding)
    report = RunReport("embed", stage.table, stage.directory)
    with connected(pipeline.experiment), timed(stage) as running, reported(report, stage.location):
        require(encoders(pipeline.experiment.ray), pipeline.experiment.ray)
        built = build_version(_request(pipeline, encoder, files, publish_anyway), report)
        counts = built.counts
        report.outcome = f"{counts.written:,} rows published, {counts.dead_letters:,} dead letters"
        say(f"embed: {report.outcome}", version=built.version, **counts.model_dump())
        running.result = EmbedResult(
            table=stage.table, rows=counts.written, dead_letters=counts.dead_letters, **built.events.model_dump()
        )
    return stage.table


def _request(pipeline: Pipeline, encoder: SavedEncoder, files: list[str], publish_anyway: str | None) -> VersionRequest:
    e, stage = pipeline.experiment, pipeline.embed
    definition = read(encoder.location)
    rows = GivenRows.of("prepared rows", files, encoder, definition, e.embedding)
    event_digest = encoder.description.event_encoder_digest
    return VersionRequest(
        job="embed",
        table=stage.table,
        run=stage.directory,
        staging=stage.staging,
        rows=rows,
        encoder=encoder,
        definition=definition,
        events=EventEncoding(e.model.event_encoder, event_digest, pipeline.event_vectors, e.ray, encoder.location),
        embedding=e.embedding,
        publishing=e.publishing,
        max_text_length=e.data.max_text_length,
        ray=e.ray,
        buckets=buckets_for(rows.rows * len(e.embedding.instructions), e.publishing),
        publish_anyway=publish_anyway,
    )


def _input(pipeline: Pipeline) -> list[str]:
    """The files of user rows."""
    wanted = pipeline.experiment.embedded_splits
    if not wanted:
        raise InputError("embedding.splits: name the splits to embed; data.splits has none with `role: fit` or `score`")
    pipeline.prepare.require()
    return [file for name in wanted for file in storage.list_files(pipeline.prepare.rows(name), ".parquet")]

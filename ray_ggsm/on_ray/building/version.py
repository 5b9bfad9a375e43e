"""Builds one new version of an embedding table from user rows and a saved encoder: what embed and refresh share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ray_ggsm import storage
from ray_ggsm.building.buckets import StagedVersion
from ray_ggsm.building.build import Build
from ray_ggsm.building.candidate import Candidate, count_dead_letters
from ray_ggsm.building.report import RunReport
from ray_ggsm.data.chunks import Chunk, plan_chunks
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.building.encode import encode_chunks
from ray_ggsm.on_ray.building.fill import fill_buckets
from ray_ggsm.on_ray.building.known import fingerprints_of
from ray_ggsm.on_ray.event_texts import EventEncoding, encode_events
from ray_ggsm.stages import EventCounts
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.reader import EmbeddingTable


@dataclass(frozen=True)
class VersionRequest:
    """What a version is made of, and where it goes."""

    job: str
    """Name of the job, at the beginning of its lines."""
    table: str
    """Location of the table."""
    run: str
    """Names the run; everything that staged files and data files depend on is in it."""
    staging: str
    """Where staged files and dead letters go."""
    rows: Sequence[Chunk]
    """Chunks of user rows."""
    encoder: SavedEncoder
    events: EventEncoding
    embedding: EncodingConfig
    publishing: PublishingConfig
    max_text_length: int
    """Of an event, in characters; rows with a longer one are rejected."""
    ray: RayConfig
    buckets: int
    """Of the table."""
    previous: EmbeddingTable | None = None
    """The version that it goes on from."""
    one_row_each: bool = False
    """Refuse a user with several rows of one instruction."""
    publish_anyway: str | None = None
    """Why to publish whatever the gates say."""
    metadata: tuple[tuple[str, Any], ...] = ()
    """Recorded with the version, beside what every version records."""

    @property
    def expected_rows(self) -> int:
        """Rows that the table should have, dead letters included."""
        return sum(chunk.rows for chunk in self.rows) * len(self.embedding.instructions)

    @property
    def comparable(self) -> bool:
        """Whether an unchanged row would get the vector that the table has."""
        if self.previous is None:
            return False
        recorded = self.previous.metadata()
        mask = recorded.get("config", {}).get("mask")
        return bool(recorded.get("encoder") == self.encoder.digest and mask == self.embedding.mask)


@dataclass(frozen=True)
class BuiltVersion:
    """A new version, or the previous one where nothing changed."""

    version: int
    counts: dict[str, int]
    """Rows: expected, written, dead_letters, encoded, departed."""
    events: EventCounts
    files: int
    """Files of the version."""
    kept: int
    """Of these, files of the version before."""
    changed: bool = True


def plan_rows(files: Sequence[str], encoder: SavedEncoder, config: EncodingConfig) -> list[Chunk]:
    """The chunks of user-row files, checked against what the encoder reads; raises like `plan_chunks`."""
    description = encoder.description
    return plan_chunks(files, config.rows_per_chunk, description.modality_names, len(description.feature_names))


def buckets_for(rows: int, embedding: EncodingConfig, publishing: PublishingConfig) -> int:
    """Buckets of a new table of so many user rows."""
    return max(1, -(-rows * len(embedding.instructions) // publishing.rows_per_bucket))


def build_version(
    request: VersionRequest, report: RunReport, check_input: Callable[[], None] = lambda: None
) -> BuiltVersion:
    """Encode what is new, fill the buckets, ask the gates, publish; staged files are removed at the end.

    Args:
        request: what to build.
        report: gets steps, counts, verdicts and the version.
        check_input: called before publishing; raises when the input changed while it was read.

    Raises:
        InputError: the input is wrong.
        GateError: a gate failed, and there is no reason to publish anyway.
    """
    with report.step("events"):
        events = encode_events(request.events, request.rows, request.encoder.description.modality_names)
    build = _build(request, events.vectors)
    with report.step("compare"):
        known = fingerprints_of(request.previous) if request.previous and request.comparable else None
    with report.step("encode"):
        report.encoded(encode_chunks(build, known, request.rows, request.ray, request.job))
    with report.step("fill"):
        staged = fill_buckets(
            build, request.rows, request.table, request.publishing.files, request.previous,
            one_row_each=request.one_row_each,
        )  # fmt: skip
    report.counts |= {"chunks": len(request.rows), **events.counts.model_dump()}
    check_input()
    return _publish(request, report, build, staged, events.counts)


def _build(request: VersionRequest, vectors: Any) -> Build:
    description = request.encoder.description
    return Build(
        embedding=request.embedding,
        max_text_length=request.max_text_length,
        encoder=request.encoder.location,
        encoder_digest=request.encoder.digest,
        modalities=description.modality_names,
        features=len(description.feature_names),
        vectors=vectors,
        run=request.run,
        staging=request.staging,
        buckets=request.buckets,
    )


def _publish(
    request: VersionRequest, report: RunReport, build: Build, staged: StagedVersion, events: EventCounts
) -> BuiltVersion:
    previous, dead = request.previous, count_dead_letters(build)
    candidate = Candidate(
        request.table, build, staged, previous, request.comparable, request.expected_rows, dead_letters=dead
    )
    kept = sum(bucket.kept for bucket in staged.buckets)
    if previous and staged.unchanged and dead == previous.metadata().get("counts", {}).get("dead_letters"):
        storage.remove(build.staging)
        return BuiltVersion(previous.version, candidate.counts, events, len(staged.buckets), kept, changed=False)
    with report.step("publish"):
        verdicts = candidate.judge(request.publishing.gates)
        report.gates = {v.gate: ("" if v.passed else "FAILED: ") + v.sentence for v in verdicts}
        report.counts |= candidate.counts
        report.version = candidate.publish(verdicts, request.publish_anyway, _metadata(request))
    storage.remove(build.chunks)
    return BuiltVersion(report.version, candidate.counts, events, len(staged.buckets), kept)


def _metadata(request: VersionRequest) -> dict[str, Any]:
    """How the version was made."""
    described = request.encoder.description.model_dump(mode="json")
    return {
        "config": request.embedding.model_dump(mode="json"),
        "encoder_description": {key: described[key] for key in ("mask", "step", "alpha", "template_digest")},
        **dict(request.metadata),
    }

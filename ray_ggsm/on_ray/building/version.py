"""Builds one new version of an embedding table from user rows and a saved encoder: what embed and refresh share.

Steps: encode event texts, find the rows that the table already has, encode the others, fill the buckets, ask the gates,
publish. Each step does only what an interrupted run has left to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.candidate import Candidate, count_dead_letters
from ray_ggsm.building.report import RunReport
from ray_ggsm.data.chunks import Chunk, plan_chunks
from ray_ggsm.data.definition import RowDefinition
from ray_ggsm.data.schema import UTC
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.on_ray.building.encode import encode_chunks
from ray_ggsm.on_ray.building.fill import fill_buckets
from ray_ggsm.on_ray.building.known import Known, fingerprints_of
from ray_ggsm.on_ray.event_texts import EventEncoding, encode_events
from ray_ggsm.stage_results import EventCounts
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.metadata import RecordedConfig, RecordedEncoder, RecordedInput, VersionCounts, VersionMetadata
from ray_ggsm.tables.publish import published_version
from ray_ggsm.tables.reader import EmbeddingTable, open_table


@dataclass(frozen=True)
class VersionRequest:
    """What a version is made of, and where it goes."""

    job: str
    """Name of the job, at the beginning of its lines."""
    table: str
    """Location of the table."""
    run: str
    """Name of the run; everything that staged files and data files depend on is in it."""
    staging: str
    """Directory of staged files and dead letters."""
    rows: Sequence[Chunk]
    """Chunks of user rows."""
    encoder: SavedEncoder
    """The encoder of user rows."""
    definition: RowDefinition | None
    """What user rows are to the encoder; None: it does not say."""
    events: EventEncoding
    """The encoder of event texts, and the place of their vectors."""
    embedding: EncodingConfig
    """How rows become vectors."""
    publishing: PublishingConfig
    """How vectors are stored, and the limits of the gates."""
    max_text_length: int
    """Longest event text, in characters; rows with a longer one are rejected."""
    ray: RayConfig
    """Resources."""
    buckets: int
    """Number of buckets of the table."""
    incremental: bool = False
    """Whether rows that the table already has keep their vectors; a user then has one row per instruction."""
    previous: EmbeddingTable | None = None
    """With `incremental`: the version to continue from; None: the table is new."""
    publish_anyway: str | None = None
    """Reason for publishing whatever the gates say; None: publish only if all pass."""
    input: RecordedInput | None = None
    """The files of user rows, recorded with the version."""

    @property
    def expected_rows(self) -> int:
        """Rows that the table should have, dead letters included."""
        return sum(chunk.rows for chunk in self.rows) * len(self.embedding.instructions)


@dataclass(frozen=True)
class BuiltVersion:
    """A new version, or the previous one where nothing changed."""

    version: int
    """Number of the version."""
    counts: VersionCounts
    """Its rows by what became of them."""
    events: EventCounts
    """Events of the rows."""
    files: int = 0
    """Number of buckets that have or had a file."""
    kept: int = 0
    """Number of these that keep the file of the version before."""
    changed: bool = True
    """Whether the version is new."""


def plan_rows(
    files: Sequence[str], encoder: SavedEncoder, definition: RowDefinition | None, config: EncodingConfig
) -> list[Chunk]:
    """The chunks of user-row files, checked against what the encoder reads; raises like `plan_chunks`."""
    description, wanted = encoder.description, definition.digest if definition else None
    features = len(description.feature_names)
    return plan_chunks(files, config.rows_per_chunk, description.modality_names, features, wanted)


def print_half_open_mask(job: str, encoder: SavedEncoder, config: EncodingConfig) -> None:
    """Print how far the mask is open and what embedding makes of it, if training stopped before it was fully open."""
    description = encoder.description
    if description.alpha >= 1:
        return
    at = f"the encoder's mask stands at alpha {description.alpha:.2f} (step {description.step})"
    if config.mask == "trained":
        text = f"{at}, and it is used as it is; embedding.mask: inference would use the recipe's final mask"
    else:
        text = f"{at}; embedding.mask: inference opens it all the same"
    print(f"{job}: {text}", flush=True)


def buckets_for(rows: int, embedding: EncodingConfig, publishing: PublishingConfig) -> int:
    """The number of buckets of a new table for so many user rows."""
    return max(1, -(-rows * len(embedding.instructions) // publishing.rows_per_bucket))


def build_version(
    request: VersionRequest, report: RunReport, check_input: Callable[[], None] = lambda: None
) -> BuiltVersion:
    """Build and publish a version; when the run has published before, nothing is built again.

    Args:
        request: what to build.
        report: gets steps, counts, verdicts and the version.
        check_input: called before publishing; raises when the input changed while it was read.

    Raises:
        InputError: the input is wrong.
        GateError: a gate failed, and there is no reason to publish anyway; everything written stays.
    """
    with report.step("events"):
        events = encode_events(request.events, request.rows, request.encoder.description.modality_names)
    report.counts |= {"chunks": len(request.rows), **events.counts.model_dump()}
    build = _build(request, events.vectors)
    report.version = published_version(request.table, request.run)
    if report.version is None:
        candidate = _candidate(request, build, report)
        check_input()
        if candidate.unchanged:
            return _unchanged(candidate, events.counts)
        return _publish(request, report, candidate, events.counts)
    build.clean()
    counts = open_table(request.table).metadata(report.version).counts or VersionCounts()
    return BuiltVersion(report.version, counts, events.counts)


def _build(request: VersionRequest, vectors: VectorStore) -> Build:
    description = request.encoder.description
    return Build(
        embedding=request.embedding,
        max_text_length=request.max_text_length,
        encoder=request.encoder.location,
        encoder_digest=request.encoder.digest,
        modalities=description.modality_names,
        features=len(description.feature_names),
        zone=request.definition.age_timezone if request.definition else UTC,
        vectors=vectors,
        run=request.run,
        staging=request.staging,
        buckets=request.buckets,
    )


def _candidate(request: VersionRequest, build: Build, report: RunReport) -> Candidate:
    """Write all files of the version."""
    previous, comparable, known = request.previous, _is_comparable(request), None
    if request.incremental:
        with report.step("compare"):
            known = _known(request, comparable)
    with report.step("encode"):
        report.encoded(encode_chunks(build, known, request.rows, request.ray, request.job))
    with report.step("fill"):
        files = request.publishing.files
        staged = fill_buckets(build, request.rows, request.table, files, previous, one_row_each=request.incremental)
    dead_letters = count_dead_letters(build)
    return Candidate(request.table, build, staged, previous, comparable, request.expected_rows, dead_letters)


def _is_comparable(request: VersionRequest) -> bool:
    """Whether an unchanged row would get the vector that the table has."""
    if request.previous is None:
        return False
    recorded = request.previous.metadata()
    mask = recorded.config.mask if recorded.config else None
    return recorded.encoder == request.encoder.digest and mask == request.embedding.mask


def _known(request: VersionRequest, comparable: bool) -> Known | None:
    return fingerprints_of(request.previous) if request.previous and comparable else None


def _unchanged(candidate: Candidate, events: EventCounts) -> BuiltVersion:
    assert candidate.previous is not None
    storage.remove(candidate.build.staging)
    files = len(candidate.staged.buckets)
    return BuiltVersion(candidate.previous.version, candidate.counts, events, files, kept=files, changed=False)


def _publish(request: VersionRequest, report: RunReport, candidate: Candidate, events: EventCounts) -> BuiltVersion:
    with report.step("publish"):
        verdicts = candidate.judge(request.publishing.gates)
        report.gates = {v.gate: ("" if v.passed else "FAILED: ") + v.sentence for v in verdicts}
        report.counts |= candidate.counts.model_dump()
        report.version = candidate.publish(verdicts, request.publish_anyway, _metadata(request))
    candidate.build.clean()
    buckets = candidate.staged.buckets
    return BuiltVersion(
        report.version, candidate.counts, events, len(buckets), kept=sum(bucket.kept for bucket in buckets)
    )


def _metadata(request: VersionRequest) -> VersionMetadata:
    """How the version was made."""
    described = request.encoder.description.model_dump(mode="json")
    encoder = {key: described[key] for key in ("mask", "step", "alpha", "template_digest")}
    metadata = VersionMetadata(
        config=RecordedConfig.model_validate(request.embedding.model_dump(mode="json")),
        encoder_description=RecordedEncoder.model_validate(encoder),
        timezone=request.definition.timezone if request.definition else None,
        row_definition=request.definition.digest if request.definition else None,
    )
    return metadata.model_copy(update={"input": request.input}) if request.input else metadata

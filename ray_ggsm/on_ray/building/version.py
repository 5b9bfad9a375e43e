"""Builds one new version of an embedding table from user rows and a saved encoder: what embed and refresh share.

Lay tonight's users out by bucket, encode event texts, put their rows through the encoder, write one file per bucket,
ask the gates, publish by one commit. Each step does only what an interrupted run has left to do; where another commit
comes in between, only the buckets that it touched are done again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter

from ray_ggsm import storage
from ray_ggsm.building.buckets import Bucket, Built, unchanged
from ray_ggsm.building.build import Build
from ray_ggsm.building.candidate import Candidate
from ray_ggsm.building.dead_letters import FORGOTTEN, count_reasons
from ray_ggsm.building.layout import LaidOut, Layout
from ray_ggsm.building.maps import FittedMaps, check_targets, fit_maps
from ray_ggsm.building.report import Progress, RunReport
from ray_ggsm.config import InputError
from ray_ggsm.data.schema import UTC
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.model.instructions import check_instructions
from ray_ggsm.on_ray.building.encode import build_buckets
from ray_ggsm.on_ray.building.request import BuiltVersion, VersionRequest
from ray_ggsm.on_ray.event_texts import encode_events
from ray_ggsm.stage_results import EventCounts
from ray_ggsm.tables import checks, delta
from ray_ggsm.tables.checks import FileCheck
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.metadata import RecordedConfig, RecordedEncoder, VersionCounts, VersionMetadata
from ray_ggsm.tables.publish import NO_TABLE, LostRace, published_version
from ray_ggsm.tables.reader import EmbeddingTable, open_table
from ray_ggsm.tables.suppression import Suppressed, read_suppressed

ATTEMPTS = 10
"""Commits in between after which a run gives way."""


def build_version(request: VersionRequest, report: RunReport) -> BuiltVersion:
    """Build and publish a version; when the run has published before, nothing is built again.

    Args:
        request: what to build.
        report: gets steps, counts, verdicts and the version.

    Raises:
        InputError: the input is wrong.
        GateError: a gate failed, and there is no reason to publish anyway; everything written stays.
        NotNow: other publishers were faster again and again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        previous = open_table(request.table) if delta.exists(request.table) else None
        if previous is not None:
            report.begun(previous)
        forgotten = read_suppressed(request.table)
        forgotten.check_key(request.key)
        if previous is not None and _is_done(request, previous.metadata(), forgotten):
            return _published(request, previous, report)
        if published_version(request.table, request.run) is not None:  # and the table was rolled back since
            request = replace(request, run=f"{request.run}-{previous.version if previous else NO_TABLE}")
        try:
            return _build_on(request, previous if request.incremental else None, forgotten, report)
        except LostRace as error:
            if attempt == ATTEMPTS:
                raise
            print(f"{request.job}: {error}: only what that commit touched is done again", flush=True)
    raise AssertionError("unreachable")


def _published(request: VersionRequest, table: EmbeddingTable, report: RunReport) -> BuiltVersion:
    report.before = None  # that is the run itself
    recorded = table.metadata()
    report.published(table.version, recorded)
    storage.remove(storage.join(request.staging, "rows"))
    counts, events = recorded.counts or VersionCounts(), EventCounts.model_validate(recorded.events)
    return BuiltVersion(table.version, counts, events, changed=False)


def _is_done(request: VersionRequest, newest: VersionMetadata, forgotten: Suppressed) -> bool:
    """Whether the newest version is that of the run, and has nobody who was forgotten."""
    return newest.run == request.run and (newest.suppressed or 0) == forgotten.version


def _build_on(
    request: VersionRequest, previous: EmbeddingTable | None, forgotten: Suppressed, report: RunReport
) -> BuiltVersion:
    comparable, build = _is_comparable(request, previous, _width(request)), _build(request, previous, forgotten)
    request.embedding.check_read_by(request.encoder.description.model.kind)
    check_instructions(request.embedding.instructions, request.encoder)
    if request.publishing.compatible is not None:
        check_targets(request.publishing.compatible, previous)
    with report.step("rows"):
        layout = _layout(request, build, previous if comparable else None)
    with report.step("events"):
        chunks = [part.rows for part in layout.parts if part.fresh]
        events = encode_events(request.events, chunks, build.modalities)
    build, buckets = replace(build, vectors=events.vectors), _buckets(build, layout, previous)
    report.counts |= {"buckets": len(buckets), **events.counts.model_dump()}
    with report.step("encode"):
        built, check, progress = _built(request, build, layout, buckets)
        report.encoded(progress)
    request.rows.check_unchanged()
    expected = sum(part.fresh + sum(part.ages.values()) for part in layout.parts) + layout.rejected
    expected, rejected = (n * len(request.embedding.instructions) for n in (expected, layout.rejected))
    expected -= sum(bucket.counts.forgotten for bucket in built)
    report.without_vector = _without_vector(build, built)
    candidate = Candidate(build, built, check, previous, comparable, expected, rejected)
    report.counts |= candidate.counts.model_dump()
    kept = sum(bucket.kept for bucket in built)
    if candidate.unchanged and previous is not None:
        build.clean()
        return BuiltVersion(previous.version, candidate.counts, events.counts, len(built), kept, changed=False)
    with report.step("publish"):
        version = _publish(request, candidate, events.counts, report)
    build.clean()
    return BuiltVersion(version, candidate.counts, events.counts, len(built), kept)


def _build(request: VersionRequest, previous: EmbeddingTable | None, forgotten: Suppressed) -> Build:
    description = request.encoder.description
    return Build(
        embedding=request.embedding,
        files=request.publishing.files,
        max_text_length=request.max_text_length,
        encoder=request.encoder.location,
        encoder_digest=request.encoder.digest,
        modalities=description.modality_names,
        features=len(description.feature_names),
        zone=request.definition.age_timezone if request.definition else UTC,
        vectors=VectorStore((), request.ray.cache_directory),
        run=request.run,
        table=request.table,
        staging=request.staging,
        buckets=previous.buckets if previous else request.buckets,
        one_row_each=request.incremental,
        forgotten=forgotten,
        key=request.key,
        max_age_days=request.max_age_days,
    )


def _publish(request: VersionRequest, candidate: Candidate, events: EventCounts, report: RunReport) -> int:
    """Judge a candidate and publish it; returns the version."""
    verdicts, compatible = candidate.judge(request.publishing.gates), request.publishing.compatible
    fitted = FittedMaps() if compatible is None else fit_maps(candidate, compatible)
    verdicts += [] if fitted.verdict is None else [fitted.verdict]
    report.gates = {verdict.gate: verdict.sentence for verdict in verdicts}
    report.failed_gates = tuple(verdict.gate for verdict in verdicts if not verdict.passed)
    metadata = _metadata(request, candidate.build, events, report)
    metadata = metadata.model_copy(update={"maps": fitted.maps}) if fitted.maps else metadata
    report.version = version = candidate.publish(verdicts, request.publish_anyway, metadata)
    report.ages = dict(candidate.check.ages)
    return version


def _is_comparable(request: VersionRequest, previous: EmbeddingTable | None, width: int) -> bool:
    """Whether an unchanged row would get the vector that the table has."""
    if previous is None:
        return False
    recorded = previous.metadata()
    config = recorded.config or RecordedConfig()
    same = recorded.encoder == request.encoder.digest and config.mask == request.embedding.mask
    same = same and recorded.width in (None, width)
    wanted = request.definition.digest if request.definition else None
    same = same and recorded.row_definition in (None, wanted)
    return same and config.instructions in (None, request.embedding.instructions)


def _width(request: VersionRequest) -> int:
    """Width of the vectors that are published.

    Raises:
        InputError: the encoder's are shorter than what is asked for.
    """
    encoded, wanted = request.encoder.description.width, request.publishing.files.dimensions
    if wanted is not None and wanted > encoded:
        raise InputError(f"publishing.files.dimensions: {wanted} is more than the encoder's vectors have, {encoded}")
    return wanted or encoded


def _layout(request: VersionRequest, build: Build, kept_from: EmbeddingTable | None) -> Layout:
    """Tonight's users by bucket; an interrupted run's are used, unless the vectors that they keep are gone."""
    file, adapter = storage.join(build.rows, "layout.json"), TypeAdapter(Layout)
    if storage.exists(file):
        try:
            found = adapter.validate_json(storage.read_bytes(file))
        except ValueError:
            raise InputError(f"{file}: this list of an interrupted run cannot be read; remove {build.rows}") from None
        if found.based_on == NO_TABLE or _only_lost_users(kept_from, found.based_on):
            return found
    previous: dict[int, list[str]] = defaultdict(list)
    for each in kept_from.data_files() if kept_from else ():
        previous[each.bucket].append(storage.join(request.table, each.path))
    layout = request.rows.lay_out(build, previous, kept_from.version if kept_from else NO_TABLE)
    layout = replace(layout, suppressed=build.forgotten.version)
    storage.write_bytes(file, adapter.dump_json(layout))
    return layout


def _only_lost_users(table: EmbeddingTable | None, version: int) -> bool:
    """Whether all rows that a table has now were in an earlier version of it."""
    since = delta.history(table.location, version + 1, table.version) if table else []
    return table is not None and all(c.operation == "forget" or c.operation.startswith("vacuum") for c in since)


def _buckets(build: Build, layout: Layout, previous: EmbeddingTable | None) -> list[Bucket]:
    """All buckets that have users tonight or had some in the version before."""
    rows: dict[int, list[LaidOut]] = defaultdict(list)
    for part in layout.parts:
        rows[part.rows.number].append(part)
    files: dict[int, list[DataFile]] = defaultdict(list)
    for file in previous.data_files() if previous else ():
        files[file.bucket].append(file)
    written: dict[int, list[str]] = defaultdict(list)
    for place in storage.list_files(build.data, ".parquet"):
        *_, bucket, name = place.split("/")
        written[int(bucket.removeprefix("bucket="))].append(f"data/{build.run}/{bucket}/{name}")
    found = []
    for k in sorted({*rows, *files}):
        name = build.part(files[k])
        earlier = tuple(path for path in written[k] if not path.endswith(f"/part-{name}.parquet"))
        found.append(Bucket(k, tuple(rows[k]), tuple(files[k]), name, earlier))
    return found


def _built(
    request: VersionRequest, build: Build, layout: Layout, buckets: Sequence[Bucket]
) -> tuple[list[Built], FileCheck, Progress]:
    """Write the files of all buckets that do not keep theirs."""
    instructions = len(build.embedding.instructions)
    progress = Progress(request.job, instructions * sum(bucket.fresh for bucket in buckets))
    total, built, changed = FileCheck(), [], []
    for bucket in buckets:
        # whether somebody in a file was forgotten meanwhile, a task sees
        same = unchanged(bucket, instructions) if layout.suppressed == build.forgotten.version else None
        if same is None:
            changed.append(bucket)
        else:
            built.append(same)
            total = checks.merge([total, same.check])
    for each in build_buckets(build, changed, request.ray, progress):
        # anchors are merged as they come, so that only the smallest stay in memory
        total = checks.merge([total, each.check])
        built.append(replace(each, check=FileCheck()))
    return sorted(built, key=lambda b: b.bucket), total, progress


def _without_vector(build: Build, built: Sequence[Built]) -> dict[str, int]:
    """Reason -> rows that got no vector."""
    found, meanwhile = count_reasons(build), sum(bucket.counts.forgotten for bucket in built)
    return found | ({FORGOTTEN: found.get(FORGOTTEN, 0) + meanwhile} if meanwhile else {})


def _metadata(request: VersionRequest, build: Build, events: EventCounts, report: RunReport) -> VersionMetadata:
    """How the version was made."""
    described = request.encoder.description.model_dump(mode="json")
    encoder = {key: described[key] for key in ("mask", "step", "alpha", "template_digest")}
    metadata = VersionMetadata(
        events=events.model_dump(),
        seconds=dict(report.seconds),
        rates=report.rates,
        without_vector=report.without_vector,
        config=RecordedConfig.model_validate(request.embedding.model_dump(mode="json")),
        encoder_description=RecordedEncoder.model_validate(encoder),
        timezone=request.definition.timezone if request.definition else None,
        row_definition=request.definition.digest if request.definition else None,
    )
    if build.forgotten.version:
        metadata = metadata.model_copy(update={"suppressed": build.forgotten.version})
    return metadata.model_copy(update={"input": request.input}) if request.input else metadata

"""The refresh job: bring a long-lived embedding table up to date with today's user rows, in one new version.

Only users whose rows have new content (by its hash) are encoded; the others keep their vector and its `as_of`, and
buckets without a change keep their file. Users who are no longer in the input leave the table. With another encoder all
users are encoded again.
"""

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from ray_ggsm import storage
from ray_ggsm.building.lock import held
from ray_ggsm.building.report import RunReport, reported
from ray_ggsm.config import Config, InputError, Location, Runtime, digest
from ray_ggsm.data.chunks import Chunk
from ray_ggsm.data.definition import RowDefinition, read
from ray_ggsm.data.night import EventsConfig
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.building.version import (
    BuiltVersion,
    VersionRequest,
    buckets_for,
    build_version,
    plan_rows,
    print_half_open_mask,
)
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.devices import encoders
from ray_ggsm.on_ray.cluster.places import check_place
from ray_ggsm.on_ray.cluster.resources import require
from ray_ggsm.on_ray.event_texts import EventEncoding
from ray_ggsm.on_ray.night import Night
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.metadata import RecordedInput
from ray_ggsm.tables.publish import NO_TABLE
from ray_ggsm.tables.reader import EmbeddingTable

FileState = tuple[str, int, str]
"""A file, its size in bytes, and its entity tag or modification time."""


class RefreshConfig(Config):
    """One refresh."""

    rows: str | None = None
    """Parquet files of user rows, local or s3://, one row per user; a pattern (`*` within a name) may name several.
    null: they are made of `events`."""
    events: EventsConfig | None = None
    """Instead of `rows`: the events that tonight's rows are made of, as the encoder's rows.json says."""
    encoder: str
    """Directory of a saved encoder (`encoder` of a train stage), or a pattern that matches exactly one."""
    table: Runtime[Location]
    """Location of the table; its first refresh creates it."""
    event_vectors: Runtime[Location | None] = None
    """Location of the vectors of event texts; null: `event_vectors` beside the table."""
    event_encoder: EventEncoderConfig | None = None
    """The event encoder, where its name has changed since training; null: the one that the encoder names."""
    embedding: EncodingConfig = EncodingConfig()
    """How rows are embedded."""
    publishing: PublishingConfig = PublishingConfig()
    """How the table is stored, and the limits of the gates."""
    max_text_length: int = Field(2000, ge=1)
    """Longest event text in characters; rows with a longer one are rejected."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources."""

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.rows is None) == (self.events is None):
            raise ValueError("rows, events: give one of them")
        return self

    @property
    def vectors(self) -> str:
        """Location of the vectors of event texts, absolute."""
        table = storage.absolute(self.table).rstrip("/")
        return storage.absolute(self.event_vectors or storage.join(table.rsplit("/", 1)[0], "event_vectors"))


@dataclass(frozen=True)
class _Input:
    """What a refresh reads."""

    name: str
    """As the table's history tells it."""
    files: list[str]
    state: list[FileState]
    """State of the files before anything was read from them."""
    encoder: SavedEncoder
    definition: RowDefinition | None
    chunks: list[Chunk]

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self.chunks)


def refresh(config: RefreshConfig, publish_anyway: str | None = None) -> int:
    """Publish a new version of the table, if anything changed; returns the newest version.

    `publish_anyway` is the reason for publishing although gates fail; None: publish only if all pass.

    Raises:
        InputError: there is no input, or another refresh of this table is running.
        GateError: a gate failed, and there is no reason to publish anyway.
    """
    encoder, table = SavedEncoder.find(config.encoder), storage.absolute(config.table)
    night = Night.of(config.events, encoder, config.max_text_length, table) if config.events else None
    rows = None if night else _named_rows(config, encoder)
    with started(config.ray):
        require(encoders(config.ray), config.ray)
        check_place("table", config.table)
        check_place("event_vectors", config.event_vectors or table)
        with held(storage.join(table, "refresh.lock")):
            if night is not None:
                rows = _input(config, encoder, night.name, night.make(config.ray))
            assert rows is not None, "rows are given or made"
            version = _refresh(config, rows, table, publish_anyway)
            if night is not None:
                night.clean()
            return version


def preview(config: RefreshConfig) -> str:
    """What a refresh would read and where it would write; raises like `refresh`, before anything is done."""
    encoder, table = SavedEncoder.find(config.encoder), storage.absolute(config.table)
    at = f"at version {open_table(table).version}" if delta.exists(table) else "not there yet"
    if config.events is not None:
        found = Night.of(config.events, encoder, config.max_text_length, table).name
    else:
        rows = _named_rows(config, encoder)
        found = f"{rows.rows:,} rows in {len(rows.files):,} files and {len(rows.chunks):,} chunks"
    return f"refresh: {found}; {table} is {at}"


def _named_rows(config: RefreshConfig, encoder: SavedEncoder) -> _Input:
    """The rows that the config names."""
    pattern = config.rows or ""
    files = storage.glob(pattern)
    if not files:
        raise InputError(f"rows: no file matches '{pattern}'")
    return _input(config, encoder, pattern, files)


def _input(config: RefreshConfig, encoder: SavedEncoder, name: str, files: list[str]) -> _Input:
    state = _state(files)
    print_half_open_mask("refresh", encoder, config.embedding)
    definition = read(encoder.location)
    return _Input(name, files, state, encoder, definition, plan_rows(files, encoder, definition, config.embedding))


def _refresh(config: RefreshConfig, rows: _Input, table: str, publish_anyway: str | None) -> int:
    previous = open_table(table) if delta.exists(table) else None
    request = _request(config, rows, table, previous, publish_anyway)
    at = f"version {previous.version}" if previous else "no version yet"
    print(
        f"refresh: {rows.rows:,} rows in {len(rows.chunks)} chunks; {table} is at {at}; run {request.run}", flush=True
    )

    def check_input() -> None:
        if _state(rows.files) != rows.state:
            raise InputError(f"rows: {rows.name} changed while it was read; nothing was published; start again")

    with reported(RunReport("refresh", table, request.run), storage.join(table, "runs", request.run)) as report:
        built = build_version(request, report, check_input)
        report.outcome = _outcome(built)
        print(f"refresh: {report.outcome}; {sum(report.seconds.values()):.0f} s", flush=True)
    return built.version


def _request(
    config: RefreshConfig, rows: _Input, table: str, previous: EmbeddingTable | None, publish_anyway: str | None
) -> VersionRequest:
    encoder = rows.encoder
    events = config.event_encoder or encoder.description.model.event_encoder
    buckets = previous.buckets if previous else buckets_for(rows.rows, config.embedding, config.publishing)
    run = _run(config, rows, buckets, previous)
    return VersionRequest(
        job="refresh",
        table=table,
        run=run,
        staging=storage.join(table, "staging", run),
        rows=rows.chunks,
        encoder=encoder,
        definition=rows.definition,
        events=EventEncoding(events, encoder.description.event_encoder_digest, config.vectors, config.ray),
        embedding=config.embedding,
        publishing=config.publishing,
        max_text_length=config.max_text_length,
        ray=config.ray,
        buckets=buckets,
        incremental=True,
        previous=previous,
        publish_anyway=publish_anyway,
        input=RecordedInput(rows=rows.name, digest=digest(rows.state)),
    )


def _run(config: RefreshConfig, rows: _Input, buckets: int, previous: EmbeddingTable | None) -> str:
    """The name of a run: a digest of everything that its staged files and data files depend on."""
    version = previous.version if previous else NO_TABLE
    settings = (config.embedding, config.publishing.files, config.max_text_length)
    return "refresh-" + digest(rows.encoder.digest, *settings, buckets, rows.state, version)


def _outcome(built: BuiltVersion) -> str:
    if not built.changed:
        return "nothing changed; no new version"
    counts = built.counts
    return (
        f"version {built.version}: {counts.written:,} rows, {counts.encoded:,} of them encoded now, "
        f"{counts.departed:,} departed, {counts.dead_letters:,} dead letters, {built.kept} of {built.files} files kept"
    )


def _state(files: list[str]) -> list[FileState]:
    states = []
    for file in files:
        fs, path = storage.filesystem(file)
        fs.invalidate_cache()
        try:
            info = fs.info(path)
        except FileNotFoundError:
            raise InputError(f"rows: {file} was removed while it was read; nothing was published") from None
        states.append((file, info["size"], str(info.get("ETag") or info.get("mtime"))))
    return states

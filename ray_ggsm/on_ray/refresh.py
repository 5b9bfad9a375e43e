"""The refresh job: bring a long-lived embedding table up to a moment, in one new version.

Tonight's users come from events (`Night`) or from user rows (`GivenRows`). Who keeps the vector that the table has is
decided first (`carry`), the others are encoded, buckets without a change keep their file. Users who are no longer in
the input leave the table. With another encoder all users are encoded again.
"""

import datetime as dt
from typing import Literal, Self

from pydantic import Field, model_validator

from ray_ggsm import storage
from ray_ggsm.building.lock import held
from ray_ggsm.building.report import RunReport, reported
from ray_ggsm.clock import today
from ray_ggsm.config import Config, InputError, Location, Runtime, digest
from ray_ggsm.data.definition import read
from ray_ggsm.data.night import EventsConfig
from ray_ggsm.data.pseudonyms import read_key
from ray_ggsm.data.source_choice import places
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.experiment import RayConfig
from ray_ggsm.lineage import reads
from ray_ggsm.log import say
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.on_ray.building.given_rows import GivenRows
from ray_ggsm.on_ray.building.request import BuiltVersion, VersionRequest, buckets_for, print_half_open_mask
from ray_ggsm.on_ray.building.version import build_version
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.devices import encoders
from ray_ggsm.on_ray.cluster.places import check_place
from ray_ggsm.on_ray.cluster.resources import require
from ray_ggsm.on_ray.event_texts import EventEncoding
from ray_ggsm.on_ray.night import Night
from ray_ggsm.tables import delta, open_table
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.metadata import RecordedInput


class CarryConfig(Config):
    """Who keeps the vector of an earlier night."""

    when: Literal["events"]
    """Users without new or expired events. Their features and the ages of their events are then those of that night."""
    max_age_days: int = Field(ge=1)
    """Age that no vector exceeds; each user's turn comes once in so many days, spread over the nights by a hash."""


class RefreshConfig(Config):
    """One refresh."""

    rows: str | None = None
    """Parquet files of user rows, local or s3://, one row per user; a pattern (`*` within a name) may name several.
    null: they are made of `events`."""
    events: EventsConfig | None = None
    """Instead of `rows`: the events that tonight's rows are made of, as the encoder's rows.json says."""
    carry: Literal["none"] | CarryConfig = "none"
    """none: every vector is of tonight. Otherwise: who keeps one of an earlier night."""
    encoder: str
    """Directory of a saved encoder (`encoder` of a train stage), or a pattern that matches exactly one."""
    table: Runtime[Location]
    """Location of the table; its first refresh creates it."""
    forgotten_key_file: Runtime[str | None] = None
    """Key of the table's list of forgotten users, who get no vector; needed once `tables.py forget` has made one."""
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

    @property
    def max_age_days(self) -> int | None:
        """As in `Build`."""
        return self.carry.max_age_days if isinstance(self.carry, CarryConfig) else None


def refresh(config: RefreshConfig, publish_anyway: str | None = None) -> int:
    """Publish a new version of the table, if anything changed; returns the newest version.

    `publish_anyway` is the reason for publishing although gates fail; None: publish only if all pass.

    Raises:
        InputError: there is no input.
        NotNow: another refresh of this table is running.
        GateError: a gate failed, and there is no reason to publish anyway.
    """
    encoder, table = SavedEncoder.find(config.encoder), storage.absolute(config.table)
    users = _users(config, encoder, table)
    for place in places(config.events.source) if config.events else [config.rows or ""]:
        reads(place)
    with started(config.ray):
        require(encoders(config.ray), config.ray)
        check_place("table", config.table)
        check_place("event_vectors", config.event_vectors or table)
        with held(storage.join(table, "refresh.lock")):
            return _refresh(config, users, encoder, table, publish_anyway)


def refresh_since(config: RefreshConfig, first: dt.date, publish_anyway: str | None = None) -> int:
    """Publish a version of every night from a day to that of the config; returns the newest version.

    Raises:
        InputError: the config reads no events, or its day is before the first.
    """
    if config.events is None:
        raise InputError("--from: nights are made up from `events`; this config gives `rows`")
    zone = _zone(config)
    last = config.events.as_of or today(zone)
    if first > last:
        raise InputError(f"--from: {first} is after the last night, {last}")
    version = -1
    with started(config.ray):
        for n in range(first.toordinal(), last.toordinal() + 1):
            events = config.events.model_copy(update={"as_of": dt.date.fromordinal(n)})
            version = refresh(config.model_copy(update={"events": events}), publish_anyway)
    return version


def count_users(config: RefreshConfig) -> int:
    """Users whom the events of a night give a row, whether or not they keep a vector.

    Raises:
        InputError: the config reads no events.
    """
    encoder, table = SavedEncoder.find(config.encoder), storage.absolute(config.table)
    users = _users(config, encoder, table)
    if not isinstance(users, Night):
        raise InputError("events: users are counted in events; this config gives `rows`")
    with started(config.ray):
        try:
            return users.count_users()
        finally:
            users.clean()


def _zone(config: RefreshConfig) -> str:
    found = read(SavedEncoder.find(config.encoder).location)
    return found.timezone if found else "UTC"


def preview(config: RefreshConfig) -> str:
    """What a refresh would read and where it would write; raises like `refresh`, before anything is done."""
    encoder, table = SavedEncoder.find(config.encoder), storage.absolute(config.table)
    at = f"at version {open_table(table).version}" if delta.exists(table) else "not there yet"
    users = _users(config, encoder, table)
    found = users.name
    if isinstance(users, GivenRows):
        found = f"{users.rows:,} rows in {len(users.state):,} files"
    return f"refresh: {found}; {table} is {at}"


def _users(config: RefreshConfig, encoder: SavedEncoder, table: str) -> Night | GivenRows:
    """Where tonight's users come from."""
    print_half_open_mask("refresh", encoder, config.embedding)
    if config.events is not None:
        return Night.of(config.events, encoder, config.max_text_length, table, config.ray, config.max_age_days)
    pattern = config.rows or ""
    files = storage.glob(pattern)
    if not files:
        raise InputError(f"rows: no file matches '{pattern}'")
    return GivenRows.of(pattern, files, encoder, read(encoder.location), config.embedding)


def _refresh(
    config: RefreshConfig, users: Night | GivenRows, encoder: SavedEncoder, table: str, publish_anyway: str | None
) -> int:
    request = _request(config, users, encoder, table, publish_anyway)
    at = f"version {open_table(table).version}" if delta.exists(table) else "no version yet"
    begun = RunReport("refresh", table, request.run, _zone(config))
    with reported(begun, storage.join(table, "runs", request.run)) as report:
        say(f"refresh: {users.name}; {table} is at {at}; run {request.run}")
        built = build_version(request, report)
        report.outcome = _outcome(built)
        seconds, numbers = sum(report.seconds.values()), built.counts.model_dump()
        say(f"refresh: {report.outcome}; {seconds:.0f} s", version=built.version, seconds=seconds, **numbers)
    if isinstance(users, Night):
        users.clean()
    return built.version


def _request(
    config: RefreshConfig, users: Night | GivenRows, encoder: SavedEncoder, table: str, publish_anyway: str | None
) -> VersionRequest:
    events = config.event_encoder or encoder.description.model.event_encoder
    seen = users.seen if isinstance(users, Night) else RecordedInput(rows=users.name, digest=digest(users.state))
    buckets = open_table(table).buckets if delta.exists(table) else _new_buckets(config, users)
    settings = (config.embedding, config.publishing.files, config.max_text_length, config.max_age_days)
    run = "refresh-" + digest(encoder.digest, *settings, buckets, seen.digest)
    return VersionRequest(
        job="refresh",
        table=table,
        run=run,
        staging=storage.join(table, "staging", run),
        rows=users,
        encoder=encoder,
        definition=read(encoder.location),
        events=EventEncoding(
            events,
            encoder.description.event_encoder_digest,
            config.vectors,
            config.ray,
            packed_in=encoder.location if config.event_encoder is None else None,
        ),
        embedding=config.embedding,
        publishing=config.publishing,
        max_text_length=config.max_text_length,
        ray=config.ray,
        buckets=buckets,
        incremental=True,
        key=None if config.forgotten_key_file is None else read_key(config.forgotten_key_file),
        max_age_days=config.max_age_days,
        publish_anyway=publish_anyway,
        input=seen,
    )


def _new_buckets(config: RefreshConfig, users: Night | GivenRows) -> int:
    """The number of buckets of a table that is new; a multiple of the store's, so that a shard has whole buckets."""
    instructions = len(config.embedding.instructions)
    if isinstance(users, GivenRows):
        return buckets_for(users.rows * instructions, config.publishing)
    wanted = buckets_for(users.count_users() * instructions, config.publishing)
    return users.shards * -(-wanted // users.shards)


def _outcome(built: BuiltVersion) -> str:
    if not built.changed:
        return "nothing changed; no new version"
    counts = built.counts
    return (
        f"version {built.version}: {counts.written:,} rows, {counts.encoded:,} of them encoded now, "
        f"{counts.departed:,} departed, {counts.dead_letters:,} dead letters, {built.kept} of {built.files} files kept"
    )

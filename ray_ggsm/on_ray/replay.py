"""The replay job: play many nights of an experiment's events, and say what carried vectors save and cost.

Each night is a real refresh: a version of a table. On the nights that are cutoffs of the experiment's test rows, probes
score the table's vectors against those of a full embedding, the experiment's own table.
"""

import datetime as dt
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, JsonValue

from ray_ggsm import storage
from ray_ggsm.clock import start_of_day
from ray_ggsm.config import Config, Location, Runtime, digest
from ray_ggsm.data.night import EventsConfig
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.evaluation.alignment import ProbeData, align
from ray_ggsm.evaluation.keys import KEYS, with_keys
from ray_ggsm.evaluation.labels import read_labels
from ray_ggsm.evaluation.pages import charts
from ray_ggsm.evaluation.replay import CARRIED, EXACT, Loss, PlayedNight, Replay, headline, losses_of, markdown
from ray_ggsm.experiment import Experiment, RayConfig, arguments, loaded
from ray_ggsm.log import say
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.evaluate import check_evaluation, check_one_instruction
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.on_ray.refresh import CarryConfig, RefreshConfig, count_users, refresh
from ray_ggsm.stages import Pipeline
from ray_ggsm.tables import open_table


class ReplayConfig(Config):
    """Which nights are played."""

    experiment: str
    """Config file of an experiment that is done: jobs/quickstart.py has run with it."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the experiment, as they were when it ran: key.path -> value."""
    nights: int = Field(ge=1)
    """Number of nights; the last one is the last cutoff of the test rows."""
    carry: CarryConfig
    """Who keeps the vector of an earlier night."""
    output: Runtime[Location]
    """Directory of the table and of the page, local or s3://."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources."""

    def pipeline(self) -> Pipeline:
        """The experiment.

        Raises:
            InputError: it cannot be evaluated.
        """
        pipeline = Pipeline.of(loaded(self.experiment, self.settings), arguments(self.experiment, self.settings))
        check_evaluation(pipeline.experiment)
        check_one_instruction(pipeline.experiment)
        return pipeline

    def days(self, experiment: Experiment) -> list[dt.date]:
        """The nights, in their order."""
        data, (_, score) = experiment.data, experiment.probe_splits
        last = max(data.snapshots.dates[k] for k in data.splits[score].cutoffs)
        return [last - dt.timedelta(days=n) for n in range(self.nights - 1, -1, -1)]


def preview(config: ReplayConfig) -> str:
    """What a replay would do; raises like `replay`, before anything is done."""
    pipeline = config.pipeline()
    days, done = config.days(pipeline.experiment), pipeline.embed.result() is not None
    todo = "" if done else f"; jobs/quickstart.py has to run with {pipeline.embed.run_with} first"
    return f"replay: {len(days)} nights from {days[0]} to {days[-1]}, to {_place(config, pipeline)}{todo}"


def replay(config: ReplayConfig) -> Replay:
    """Play the nights that are not played yet, score, write and print the page.

    Raises:
        InputError: the experiment is not done.
        GateError: a night did not pass its gates.
    """
    pipeline = config.pipeline()
    pipeline.embed.require()
    place = _place(config, pipeline)
    days = config.days(pipeline.experiment)
    with started(config.ray):
        nights = [_play(config, pipeline, place, day) for day in days]
        losses, error = _score(pipeline, place, nights)
    found = Replay(nights=tuple(nights), losses=tuple(losses), largest_error=error)
    _write(config, found, pipeline.experiment.name, place)
    print(f"replay: {headline(found)}\nreplay: {storage.join(place, 'replay.md')}", flush=True)
    return found


def _place(config: ReplayConfig, pipeline: Pipeline) -> str:
    name = digest(pipeline.train.directory, config.carry, config.nights)
    return storage.join(storage.absolute(config.output), f"replay-{name}")


def night_of(config: ReplayConfig, pipeline: Pipeline, table: str, day: dt.date) -> RefreshConfig:
    """The refresh of one night."""
    e = pipeline.experiment
    return RefreshConfig(
        events=EventsConfig(
            source=e.data.source,
            minimum_events=e.data.snapshots.minimum_events,
            as_of=day,
            key_file=e.data.users.key_file,
            shards=e.data.shards,
            memory_gb=e.data.memory_gb,
            spill_gb=e.data.spill_gb,
            max_bad_share=e.data.max_bad_share,
        ),
        carry=config.carry,
        encoder=pipeline.train.encoder,
        table=table,
        event_vectors=pipeline.event_vectors,
        event_encoder=e.model.event_encoder,
        embedding=EncodingConfig.model_validate(
            {name: getattr(e.embedding, name) for name in EncodingConfig.model_fields}
        ),
        publishing=e.publishing,
        max_text_length=e.data.max_text_length,
        ray=config.ray,
    )


def _play(config: ReplayConfig, pipeline: Pipeline, place: str, day: dt.date) -> PlayedNight:
    file = storage.join(place, "nights", f"{day}.json")
    if storage.exists(file):
        return PlayedNight.model_validate_json(storage.read_text(file))
    night = night_of(config, pipeline, storage.join(place, "table"), day)
    start = time.monotonic()
    version = refresh(night)
    seconds = time.monotonic() - start
    table = open_table(night.table)
    rows, counts = table.read(columns=["user_id", "as_of"]), table.metadata().counts
    assert counts is not None, "a refresh records its counts"
    tonight = start_of_day(day, pipeline.experiment.data.snapshots.timezone)
    played = PlayedNight(
        day=str(day),
        version=version,
        users=len(rows),
        expected=count_users(night),
        repeated=len(rows) - len(rows["user_id"].unique()),
        encoded=counts.encoded,
        oldest_days=round((tonight - pc.min(rows["as_of"]).as_py()) / dt.timedelta(days=1)),
        seconds=round(seconds, 1),
    )
    storage.write_json(file, played.model_dump(mode="json"))
    say(
        f"replay: {day}: {played.encoded:,} of {played.users:,} users encoded, the oldest vector is "
        f"{played.oldest_days} days old, {seconds:.0f} s",
        **played.model_dump(),
    )
    return played


def _score(pipeline: Pipeline, place: str, nights: list[PlayedNight]) -> tuple[list[Loss], float]:
    """The losses, and the largest difference between vectors of the same moment."""
    e, table = pipeline.experiment, open_table(storage.join(place, "table"))
    fit, score = e.probe_splits
    exact = open_table(pipeline.embed.table).read(columns=["user_id", "as_of", "embedding"])
    labels = read_labels(pipeline.prepare.labels(score))
    parts = []
    for night in nights:
        moment = start_of_day(dt.date.fromisoformat(night.day), e.data.snapshots.timezone)
        if not pc.any(pc.equal(labels["as_of"], pa.scalar(moment, labels.schema.field("as_of").type))).as_py():
            continue
        rows = table.read(version=night.version, columns=["user_id", "as_of", "embedding"])
        vector_as_of = rows["as_of"]
        tonight = pa.array([moment] * len(rows), rows.schema.field("as_of").type)
        parts.append(rows.set_column(1, "as_of", tonight).append_column("vector_as_of", vector_as_of))
    carried = pa.concat_tables(parts)
    labels = labels.filter(pc.is_in(labels["as_of"], value_set=carried["as_of"].combine_chunks().unique()))
    fitted = align(read_labels(pipeline.prepare.labels(fit)), exact, "embedding", fit)
    scored = {name: align(labels, rows, "embedding", score) for name, rows in {CARRIED: carried, EXACT: exact}.items()}
    probed = probe_all(e.evaluation, e.seed, {name: ProbeData(fitted, each) for name, each in scored.items()})
    age_N, silence_N = _ages(labels, carried), _silence(pipeline, score, labels)
    same_N = age_N == 0
    error = np.abs(scored[CARRIED].vectors[same_N] - scored[EXACT].vectors[same_N]).max(initial=0.0)
    return losses_of(probed, scored[EXACT], silence_N, ~same_N, e.seed), float(error)


def _joined(labels: pa.Table, rows: pa.Table, column: str) -> np.ndarray:
    """A column of `rows` for each label row, in their order."""
    order = with_keys(labels, "labels").select(KEYS).append_column("n", pa.array(range(len(labels))))
    keys = pa.schema([order.schema.field(name) for name in KEYS])
    named = rows.select(KEYS).cast(keys).append_column(column, rows[column])
    found = order.join(named, KEYS).sort_by("n")
    values: np.ndarray = found[column].to_numpy()
    return values


def _ages(labels: pa.Table, carried: pa.Table) -> np.ndarray:
    """Days between a label row's moment and that of its vector."""
    vector_N = _joined(labels, carried, "vector_as_of").astype("datetime64[us]")
    return (labels["as_of"].to_numpy().astype("datetime64[us]") - vector_N) / np.timedelta64(1, "D")


def _silence(pipeline: Pipeline, split: str, labels: pa.Table) -> np.ndarray:
    """Whole days between a label row's moment and the last event of its history."""
    names = list(pipeline.experiment.data.modalities)
    files = storage.list_files(pipeline.prepare.rows(split), ".parquet")
    rows = pa.concat_tables([pq.read_table(file, columns=["user_id", "as_of", *names]) for file in files])
    last = [[row[-1]["time"] if row else None for row in rows[name].to_pylist()] for name in names]
    newest = [max((t for t in times if t is not None), default=None) for times in zip(*last, strict=True)]
    table = pa.table(
        {"user_id": rows["user_id"], "as_of": rows["as_of"], "last": pa.array(newest, pa.timestamp("us", "UTC"))}
    )
    last_N = _joined(labels, table, "last").astype("datetime64[us]")
    return np.floor((labels["as_of"].to_numpy().astype("datetime64[us]") - last_N) / np.timedelta64(1, "D"))


def _write(config: ReplayConfig, found: Replay, name: str, place: str) -> None:
    values = {"config": config.model_dump(mode="json"), **found.model_dump(mode="json")}
    storage.write_json(storage.join(place, "replay.json"), values)
    made = f"`python jobs/replay.py`, experiment {config.experiment}, vectors carried up to "
    made += f"{config.carry.max_age_days} days"
    storage.write_text(storage.join(place, "replay.md"), markdown(found, f"Nights of {name}", made))
    shares = [(n, night.encoded / max(night.users, 1)) for n, night in enumerate(found.nights, 1)]
    if len(shares) > 1:
        picture = charts.lines({"share of users encoded": shares}, "Share of users encoded per night", span=(0.0, 1.0),
                               axis_name="night")  # fmt: skip
        storage.write_text(storage.join(place, "replay.svg"), picture)

"""The monitor job: probe AUC on labels that have matured since, and a word when retraining is due.

Labels of past moments get the vectors that a published table had then (`EmbeddingTable.join`: never a later one).
`ray_ggsm.evaluation.monitor` says what is compared with what. An encoder that is new in the table starts again with a
reference of its own.
"""

import datetime as dt
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, JsonValue, model_validator

from ray_ggsm import storage
from ray_ggsm.clock import start_of_day, today
from ray_ggsm.config import Config, InputError, Location, NotNow, Runtime, to_yaml
from ray_ggsm.data.config import DataConfig
from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.keys import KEYS, unique_keys
from ray_ggsm.evaluation.labels import check_labels, read_labels
from ray_ggsm.evaluation.monitor import MonitorResult, PeriodAucs, PeriodResult, RetrainConfig, follow
from ray_ggsm.evaluation.pages.monitor_page import write_monitor
from ray_ggsm.evaluation.pages.monitor_text import encoder_notes, gauges, headline, terminal_text
from ray_ggsm.evaluation.periods import Periods
from ray_ggsm.experiment import RayConfig, loaded
from ray_ggsm.hashing import hash64
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.places import check_kept
from ray_ggsm.on_ray.prepare import matured_labels
from ray_ggsm.on_ray.probing.probes import probe_all
from ray_ggsm.tables import open_table
from ray_ggsm.tables.encoders import join_any_encoder
from ray_ggsm.tables.metrics import exposition
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import matrix

NONE = ""
"""In place of an encoder: there is no vector."""
MOST_DAYS = 36_500
"""Of a period, and of a label's horizon: a hundred years, so that every date can be told."""


class LabelFiles(Config):
    """Label tables that a team has made: user_id, as_of (the moment), boolean labels."""

    files: str
    """A Parquet file, a directory of them, or a pattern (`*` within a name), local or s3://."""
    future_days: int = Field(ge=1, le=MOST_DAYS)
    """Days after its moment until a label is known."""


class MonitorConfig(Config):
    """Which table is followed, on which labels, and when something is due."""

    table: str
    """Location of the table, local or s3://."""
    labels: LabelFiles | None = None
    """Labels that a team has made; null: they are made of events."""
    experiment: str | None = None
    """Instead of `labels`: config file of an experiment, whose labels are made of the events of its source, for all
    users at the first day of every period."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of the experiment: key.path -> value."""
    first: dt.date
    """First day of the first period. An encoder's first period with labels is its reference, so leave it as it is."""
    period_days: int | None = Field(None, ge=1, le=MOST_DAYS)
    """Length of a period; null: as far as the labels look ahead, so that no two periods share a future."""
    as_of: dt.date | None = None
    """Labels count that are known at the beginning of this day; null: today."""
    retrain_when: RetrainConfig = RetrainConfig()
    """When something is due."""
    instruction: str | None = None
    """Instruction whose vectors are followed; null: the table has one."""
    published_by_moment: bool = False
    """Only vectors count that were published by their label's moment; false: all whose history ends by then, which is
    right for tables whose nights were made up later."""
    max_age_days: int | None = Field(None, ge=0)
    """Older vectors do not count; null: of any age."""
    users: int = Field(20_000, ge=100)
    """Largest number of users; always the same people, so that periods can be compared."""
    probe: Kind = "linear"
    """Kind of probe."""
    evaluation: ProbeConfig = ProbeConfig()
    """Settings of the probe; `folds` also says in how many parts users are dealt. `kinds`, `instructions`,
    `few_labels`, `dimensions`, `privacy`, `allow_missing` and `allow_same_period` have no effect."""
    output: Runtime[Location]
    """Directory of monitor.json, monitor.html and metrics.prom, local or s3://."""
    seed: int = Field(0, ge=0)
    """Seed of probes and resampling."""
    ray: Runtime[RayConfig] = RayConfig()
    """Resources of the probes."""

    @model_validator(mode="after")
    def _one_kind_of_labels(self) -> Self:
        if (self.labels is None) == (self.experiment is None):
            raise ValueError("labels, experiment: give one of them")
        return self

    def data(self) -> DataConfig | None:
        """What labels are made of; None: they are given.

        Raises:
            InputError: the experiment has no labels.
        """
        if self.experiment is None:
            return None
        data = loaded(self.experiment, self.settings).data
        if not data.labels:
            raise InputError(f"experiment: {self.experiment} has no data.labels; add some, or give a table of labels")
        return data

    def periods(self, data: DataConfig | None, table: EmbeddingTable) -> Periods:
        """The periods, in the time zone of the labels.

        Raises:
            InputError: `as_of` has not come yet.
            NotNow: no label has matured.
        """
        if data is None:
            assert self.labels is not None, "one of the two is given"
            future_days, zone = self.labels.future_days, table.metadata().timezone or "UTC"
        else:
            future_days, zone = data.snapshots.future_days, data.snapshots.timezone
        now = today(zone)
        if self.as_of is not None and self.as_of > now:
            raise InputError(f"as_of: labels are known up to today, {now} in {zone}, found {self.as_of}")
        found = Periods(self.first, self.period_days or future_days, future_days, self.as_of or now, zone)
        found.check()
        return found


def preview(config: MonitorConfig) -> str:
    """What would be followed; raises what `monitor` raises before labels are read."""
    table = open_table(config.table)
    periods = config.periods(config.data(), table)
    if config.labels is not None:
        _files(config.labels.files)
    return (
        f"monitor: {table.location} version {table.version}; {periods.matured} periods of {periods.days} days from "
        f"{periods.first} on have labels that are known on {periods.today}"
    )


def monitor(config: MonitorConfig) -> MonitorResult:
    """Compare the periods, print a table, write and return the numbers.

    Raises:
        InputError: the table, labels or an instruction are missing, or vectors of a moment are gone.
        NotNow: no label has matured.
    """
    with started(config.ray):
        check_kept("output", config.output)
        table, data = open_table(config.table), config.data()
        periods = config.periods(data, table)
        labels, period_N, notes = _labels(config, data, periods)
        found = _followed(config, table, periods, labels, period_N)
    result = MonitorResult(
        table=table.location,
        version=table.version,
        as_of=str(periods.today),
        loss=config.retrain_when.loss,
        verdict=found[-1].aucs.verdict,
        periods=found,
        notes=(*encoder_notes(found), *notes),
    )
    place = storage.absolute(config.output)
    storage.write_json(storage.join(place, "monitor.json"), result.model_dump(mode="json"))
    write_monitor(result, to_yaml(config), storage.join(place, "monitor.html"))
    storage.write_text(storage.join(place, "metrics.prom"), exposition(table.location, gauges(result)))
    print(f"{terminal_text(result)}\nmonitor: {headline(result)}\nmonitor: {storage.join(place, 'monitor.html')}")
    return result


def _files(pattern: str) -> list[str]:
    """The label tables that a pattern names."""
    found = storage.glob(pattern)
    if not found:
        raise InputError(f"labels.files: no file matches '{pattern}'")
    return found


def _labels(config: MonitorConfig, data: DataConfig | None, periods: Periods) -> tuple[pa.Table, np.ndarray, list[str]]:
    """The matured label rows (N) of the followed users, the period of each, and what was left out."""
    labels, total, notes = _given(config) if data is None else _of_events(config, data, periods)
    unique_keys(labels, "labels")
    labels, period_N, left_out = periods.of(labels)
    users, notes = labels["user_id"].combine_chunks().unique(), notes + left_out
    total = len(users) if total is None else total
    if total > config.users:
        notes.append(f"{config.users:,} of {total:,} users with labels are followed, always the same ones")
        users = users.take(pa.array(np.argsort(hash64(users), kind="stable")[: config.users]))
        kept = pc.is_in(labels["user_id"], value_set=users)
        labels, period_N = labels.filter(kept), period_N[kept.to_numpy()]
    return labels, period_N, notes


def _given(config: MonitorConfig) -> tuple[pa.Table, None, list[str]]:
    """All label rows of the label tables."""
    assert config.labels is not None, "one of the two is given"
    tables = [read_labels(file) for file in _files(config.labels.files)]
    if odd := [table for table in tables if table.schema.names != tables[0].schema.names]:
        raise InputError(
            f"labels.files: all files must have the same columns, found {', '.join(tables[0].schema.names)} and "
            f"{', '.join(odd[0].schema.names)}"
        )
    return pa.concat_tables(tables), None, []


def _of_events(config: MonitorConfig, data: DataConfig, periods: Periods) -> tuple[pa.Table, int, list[str]]:
    """The label rows, known from the events, of users who may be followed, how many users have such rows, and which
    rows are left out."""
    moments = [periods.start(n) for n in range(periods.matured)]
    matured = matured_labels(data, moments, config.users, config.output, config.ray)
    labels, found = check_labels(matured.found.labels, "labels"), matured.found
    waiting = moments[periods.until(matured.newest).matured :]
    if not waiting:
        return labels, sum(found.users.values()), []
    first = start_of_day(waiting[0], periods.timezone)
    rows = sum(n for moment, n in found.rows.items() if moment >= first)
    note = (
        f"{rows:,} label rows were left out: their periods, from {waiting[0]} on, have labels that are known "
        f"{periods.future_days} days after their moment, and the newest event is of {matured.newest}"
    )
    labels = labels.filter(pc.less(labels["as_of"], pa.scalar(first, labels.schema.field("as_of").type)))
    if not len(labels):
        raise NotNow(f"labels: no label row has matured; {note}")
    return labels, sum(n for moment, n in found.users.items() if moment < first), [note]


def _followed(
    config: MonitorConfig, table: EmbeddingTable, periods: Periods, labels: pa.Table, period_N: np.ndarray
) -> tuple[PeriodResult, ...]:
    """All periods, compared encoder by encoder."""
    found = join_any_encoder(
        table,
        pa.table({"user_id": labels["user_id"], "time": labels["as_of"]}),
        known_at="time" if config.published_by_moment else None,
        instruction=config.instruction,
        max_age=None if config.max_age_days is None else dt.timedelta(days=config.max_age_days),
    )
    encoder_N = found["encoder"].fill_null(NONE).to_numpy()
    encoders = {n: _most_frequent(encoder_N[period_N == n]) for n in np.unique(period_N).tolist()}
    own_N = np.array([encoders[n] for n in period_N.tolist()])
    probes = config.evaluation.model_copy(update={"kinds": (config.probe,)})
    aucs: dict[int, PeriodAucs] = {}
    for encoder in dict.fromkeys(encoder for encoder in encoders.values() if encoder != NONE):
        use_N = (encoder_N == encoder) & (own_N == encoder)
        rows = _aligned(labels.filter(pa.array(use_N)), found["embedding"].filter(pa.array(use_N)))
        print(f"monitor: {len(rows.users):,} rows with vectors of encoder {encoder}", flush=True)
        aucs |= follow(rows, period_N[use_N], probes, config.retrain_when, config.seed, probe_all)
    users_N = labels["user_id"].to_numpy()
    return tuple(
        _period(periods, n, encoder, encoder_N[period_N == n], users_N[period_N == n], aucs.get(n, PeriodAucs()))
        for n, encoder in encoders.items()
    )


def _period(
    periods: Periods, number: int, encoder: str, encoder_N: np.ndarray, users_N: np.ndarray, aucs: PeriodAucs
) -> PeriodResult:
    """A period of an encoder, whose rows (N) have vectors of these encoders."""
    none_N = encoder_N == NONE
    used_N = (encoder_N == encoder) & ~none_N
    return PeriodResult(
        first=str(periods.start(number)),
        end=str(periods.start(number + 1)),
        encoder=None if encoder == NONE else encoder,
        rows=int(used_N.sum()),
        users=len(np.unique(users_N[used_N])),
        without_vector=int(none_N.sum()),
        other_encoder=int((~used_N & ~none_N).sum()),
        aucs=aucs,
    )


def _most_frequent(encoder_N: np.ndarray) -> str:
    """The encoder of most vectors; NONE: there is no vector."""
    names, counts = np.unique(encoder_N[encoder_N != NONE], return_counts=True)
    return str(names[counts.argmax()]) if len(names) else NONE


def _aligned(labels: pa.Table, vectors: pa.ChunkedArray) -> Aligned:
    values = {name: labels[name].cast(pa.float32()).to_numpy() for name in labels.column_names if name not in KEYS}
    return Aligned(matrix(vectors), values, labels["user_id"].to_numpy(), 0)

"""Nights from events: against the bare encode loop, and as a story of a few nights with a kill.

    python benchmarks/night_events.py ratios --work DIRECTORY [--users 40000]
    python benchmarks/night_events.py story  --work DIRECTORY [--users 13000000] [--nights 3]

A made-up population (jobs/simulate.py; .6 events per user and day, and twelve days of them) goes into an event store
(jobs/ingest.py). Its encoder is that of one training step on other users of this kind.

    ratios    users/s of a night in which everybody is encoded, from the store, over those of two processes with one
              thread each that only encode the same rows in a loop; and with two encoder actors over those with one.
              The model is the language model of configs/journey/language_model.yaml, Ray is up already, and event
              vectors are in the store before anything is timed
    story     the real jobs with a tiny encoder: days are ingested, and after each of the last ones there is a night
              with `carry: {when: events, max_age_days: 7}`. In the second night the driver is killed when about half
              of the files are written. Prints seconds, what was encoded, the memory of each driver, and what a reader
              finds: users of the version against those in the events, counted by a plain query
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from journey_model import CONFIG
from night import encode_only, timed, watched

from ray_ggsm import storage
from ray_ggsm.config import build, load
from ray_ggsm.data.definition import read
from ray_ggsm.data.night import night_config
from ray_ggsm.experiment import Experiment, RayConfig
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.prepare import rows_of
from ray_ggsm.on_ray.refresh import RefreshConfig, refresh
from ray_ggsm.tables import open_table
from tests.helpers.models import write_decoder, write_event_encoder

ROOT = Path(__file__).parents[1]
FIRST, DAYS = dt.date(2025, 1, 1), 12
TABLES = {
    "bill": {"events_per_day": 0.1, "contents": 500, "mean_amount": 30.0},
    "page_view": {"events_per_day": 0.5, "contents": 100},
}
USERS_PER_STORE_BUCKET, TRAINED_ON = 250_000, 2000


class Log:
    """The events of a population, their store, and an encoder, in a directory."""

    def __init__(self, work: Path, users: int, model: dict[str, Any]) -> None:
        self.work, self.users, self.model = work, users, model
        self.store, self.table = str(work / "store"), str(work / "users")
        work.mkdir(parents=True, exist_ok=True)

    def job(self, name: str, config: dict[str, Any], *arguments: str) -> list[str]:
        """The command of a job with this config."""
        file = self.work / f"{name}.json"
        file.write_text(json.dumps(config))
        return [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--config", str(file), *arguments]

    def simulate(self, name: str, users: int) -> Path:
        """The events of so many users."""
        population = {"users": users, "first_day": str(FIRST), "days": DAYS, "tables": TABLES, "horizon_days": 1}
        output = self.work / name
        run(self.job("simulate", {"output": str(output), "population": population}))
        return output

    def ingest(self, events: Path, first: int, last: int) -> None:
        """Days of the events, counted from 0, into the store."""
        tables = {t: {"files": f"{events}/{t}/day={{day}}/*.parquet", "user": "user", "time": "time"} for t in TABLES}
        days = {"day": str(FIRST + dt.timedelta(first)), "last_day": str(FIRST + dt.timedelta(last))}
        buckets = max(1, self.users // USERS_PER_STORE_BUCKET)
        run(self.job("ingest", {"store": self.store, "tables": tables, "buckets": buckets, **days}))

    def train(self) -> str:
        """One step; returns the location of the encoder."""
        events = self.simulate("other_events", TRAINED_ON)
        files = {t: {"files": f"{events}/{t}/*/*.parquet", "user": "user", "time": "time"} for t in TABLES}
        config = {
            "name": "one step", "output": str(self.work / "out"),
            "data": {
                "source": {"kind": "files", "tables": {t: {**f, "timezone": "UTC"} for t, f in files.items()}},
                "modalities": {
                    "bill": {"table": "bill", "text": "{item}", "amount": "amount", "keep": 10},
                    "page_view": {"table": "page_view", "text": "{item}", "keep": 20},
                },
                "features": [
                    {"name": "bills", "table": "bill", "sql": "count(*)", "windows": [7, 30]},
                    {"name": "views", "table": "page_view", "sql": "count(*)", "windows": [7, 30]},
                ],
                "snapshots": {
                    "timezone": "UTC", "cutoffs": [str(FIRST + dt.timedelta(9))], "history_days": 30,
                    "future_days": 3, "minimum_events": {"table": "page_view", "count": 1},
                },
                "users": {"salt": "night-", "test_percent": 30},
                "splits": {"pretrain": {"role": "train", "users": "train", "cutoffs": [0]}},
            },
            "model": self.model,
            "mask": {"recipe": "bidirectional"},
            "training": {"steps": 1, "batch_size": 8},
        }  # fmt: skip
        run(self.job("prepare", config))
        run(self.job("train", config))
        (encoder,) = (self.work / "out").glob("train-*/encoder")
        return str(encoder)

    def night(self, encoder: str, as_of: dt.date, table: str, **settings: Any) -> dict[str, Any]:
        """The config of a night."""
        source = {"kind": "store", "location": self.store}
        events = {"source": source, "minimum_events": {"table": "page_view", "count": 1}, "as_of": str(as_of)}
        return {"events": events, "encoder": encoder, "table": table, **settings}


def run(command: list[str]) -> None:
    """Run a command; its output is shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")


def ratios(work: Path, users: int) -> None:
    """Print what `ratios` says."""
    model = load(Experiment, CONFIG).model.model_dump(mode="json", exclude_defaults=True)
    log = Log(work, users, model)
    encoder = log.train()
    log.ingest(log.simulate("events", users), 0, DAYS - 1)
    embedding = {"tokens_per_batch": load(Experiment, CONFIG).embedding.tokens_per_batch}

    def config(table: str, workers: int) -> RefreshConfig:
        ray = {"embed_workers": workers, "cpus_per_embed_worker": 1}
        gates = {"gates": {"max_similarity": 1.0}}
        values = log.night(encoder, FIRST + dt.timedelta(DAYS), str(work / table), embedding=embedding, ray=ray)
        return build(RefreshConfig, {**values, "publishing": gates}, "the night")

    with started(RayConfig()):
        refresh(config("warm", 2))
        two = timed(lambda: refresh(config("two", 2)))
        rows = _rows(config("two", 2), work)
        halves = [(str(Path(encoder).parent), *rest) for rest in _halves(config("two", 2), rows)]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            bare = max(pool.map(encode_only, halves)) / len(rows)
        print(f"bare: {1 / bare:.1f} users/s; the night of {len(rows)} users {len(rows) / two:.1f} users/s, "
              f"{bare * len(rows) / two:.2f} of that", flush=True)  # fmt: skip
        one = timed(lambda: refresh(config("one", 1)))
        print(f"workers: one {one:.1f} s, two {two:.1f} s: {one / two:.2f} x", flush=True)


def _rows(config: RefreshConfig, work: Path) -> pa.Table:
    """The rows of a night."""
    assert config.events is not None
    definition = read(config.encoder)
    assert definition is not None
    data = night_config(config.events, definition, storage.join(config.encoder, "rows.json"), config.max_text_length)
    rows_of(data, str(work / "rows"), str(work / "unused"), config.ray)
    return pq.read_table([str(file) for file in (work / "rows" / "rows").rglob("*.parquet")])


def _halves(config: RefreshConfig, rows: pa.Table) -> list[tuple[str, RefreshConfig, pa.Table, int, int]]:
    vectors, half = _vectors_of(config), len(rows) // 2
    return [(vectors, config, rows, 0, half), (vectors, config, rows, half, len(rows))]


def _vectors_of(config: RefreshConfig) -> str:
    """The only directory of event vectors."""
    (found,) = (path for path in Path(config.vectors).iterdir() if path.is_dir())
    return str(found)


def story(work: Path, users: int, nights: int) -> None:
    """Print what `story` says."""
    for name, write in (("decoder", write_decoder), ("event_encoder", write_event_encoder)):
        if not (work / name).exists():
            (work / name).mkdir(parents=True)
            write(work / name)
    events_model = {"name": str(work / "event_encoder"), "dtype": "float32", "max_tokens": 16}
    model = {
        "backbone": {"name": str(work / "decoder"), "layers": 2}, "event_encoder": events_model,
        "lora": {"r": 2, "alpha": 2}, "dtype": "float32", "tabular_tokens": 2,
    }  # fmt: skip
    log = Log(work, users, model)
    encoder = log.train()
    events = told(f"simulate {users:,} users", lambda: log.simulate("events", users))
    first = DAYS - nights
    for n in range(nights):
        days = (0, first) if n == 0 else (first + n, first + n)
        told(f"ingest days {days[0] + 1} to {days[1] + 1}", lambda days=days: log.ingest(events, *days))
        as_of = FIRST + dt.timedelta(first + n + 1)
        settings = {
            "carry": {"when": "events", "max_age_days": 7},
            "embedding": {"tokens_per_batch": 16_384},
            "publishing": {"gates": {"max_similarity": 1.0}},
        }
        command = log.job("refresh", log.night(encoder, as_of, log.table, **settings))
        if n == 1:
            told("night 2, until its driver was killed", lambda c=command: killed(c, log.table))
        seconds, memory = watched(command)
        _report(log, events, n, as_of, seconds, memory)


def told(what: str, work: Any) -> Any:
    """The result of `work`, whose seconds are printed."""
    result: list[Any] = []
    seconds = timed(lambda: result.append(work()))
    print(f"{what}: {seconds:.0f} s", flush=True)
    return result[0]


def killed(command: list[str], table: str) -> None:
    """Run a night and kill its driver when half of as many new files as the version has are there."""
    files = len(open_table(table).data_files())

    def count() -> int:
        return sum(1 for _ in Path(table).rglob("*.parquet"))

    before, job = count(), subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while count() - before < files // 2:
        if job.poll() is not None:
            raise SystemExit("the night was over before the kill")
        time.sleep(0.2)
    os.killpg(job.pid, 9)
    job.wait()


def _report(log: Log, events: Path, n: int, as_of: dt.date, seconds: float, memory: int) -> None:
    table = open_table(log.table)
    counts = table.metadata().counts
    assert counts is not None
    files = [str(Path(log.table) / file.path) for file in table.data_files()]
    found = duckdb.sql(
        f"""with views as (from read_parquet('{events}/page_view/*/*.parquet')),
        log as (select distinct user from views where time < '{as_of}'),
        published as (select user_id from read_parquet({files}))
        select (select count(*) from log), count(*), count(distinct user_id),
        count(*) filter (user_id not in (select user from log)) from published"""
    ).fetchall()[0]
    print(
        f"night {n + 1}: {seconds:.0f} s, driver {memory / 2**20:.0f} MiB; {counts.encoded:,} of {counts.written:,} "
        f"encoded; users with events {found[0]:,}, rows {found[1]:,}, users {found[2]:,}, of them unknown {found[3]:,}",
        flush=True,
    )


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("ratios", "story"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--users", type=int)
    parser.add_argument("--nights", type=int, default=3)
    options = parser.parse_args()
    if options.what == "ratios":
        ratios(options.work.resolve(), options.users or 40_000)
    else:
        story(options.work.resolve(), options.users or 13_000_000, options.nights)


if __name__ == "__main__":
    main()

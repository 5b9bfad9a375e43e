"""Ingest and rows against plain scripts that go from the same files to the same rows; one after the other, cold.

    python benchmarks/ingest.py --work DIRECTORY [--users 56500] [--rounds 3] [--pandas] [--memory] [--growth]

A simulated population (150 days, 5.9 events a day) is written once. Each round runs, in turn:

    plain     benchmarks/plain_rows.py, one process, all cores
    cold      jobs/ingest.py into a new store, then jobs/prepare.py from it
    again     jobs/prepare.py from that store once more (another output)
    next day  jobs/ingest.py, one more day into that store

and prints seconds and ratios. At the end the rows of `plain` and `cold` are compared: users, times, texts, features,
labels. `--memory` watches the memory of all processes of a round (proportional set size, shared pages counted once).
`--growth` runs `cold` alone, with a tenth of the users, half of them and all, and prints what each further million of
events costs.
"""

import argparse
import datetime as dt
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parents[1]
DAYS, FIRST_DAY = 150, dt.date(2025, 1, 1)
TABLES = ("bill", "mini_program", "page_view", "app", "search")


class Memory(threading.Thread):
    """The largest memory of this process's children, GB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.ended = 0.0, False

    def run(self) -> None:
        """Look five times a second."""
        me = psutil.Process()
        while not self.ended:
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_full_info().pss
                except (psutil.Error, OSError):
                    continue
            self.peak = max(self.peak, total / 1e9)
            time.sleep(0.2)


def command(work: Path, *arguments: str) -> None:
    """Run Python in the work directory."""
    done = subprocess.run([sys.executable, *arguments], cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}")


def simulate(work: Path, users: int) -> None:
    """The population, one more day than is ingested first."""
    command(
        work, str(ROOT / "jobs" / "simulate.py"), "--config", str(ROOT / "configs" / "simulate.yaml"),
        "--set", f"population.users={users}", "--set", f"population.days={DAYS + 1}",
        "--set", f"output={work}/events",
    )  # fmt: skip
    last = f"day={FIRST_DAY + dt.timedelta(days=DAYS)}"
    for table in TABLES:
        if (work / "events" / table / last).exists():
            (work / "next" / table).mkdir(parents=True, exist_ok=True)
            shutil.move(str(work / "events" / table / last), str(work / "next" / table / last))


def write_configs(work: Path, buckets: int) -> None:
    """Configs of the two jobs."""
    ingest = yaml.safe_load((ROOT / "configs" / "ingest.yaml").read_text())
    ingest |= {"store": str(work / "store"), "buckets": buckets}
    for table in ingest["tables"].values():
        table["files"] = table["files"].replace("data/simulated", str(work / "events"))
    (work / "ingest.yaml").write_text(yaml.safe_dump(ingest))
    for name in TABLES:
        ingest["tables"][name]["files"] = f"{work}/next/{name}/day={{day}}/*.parquet"
    del ingest["tables"]["users"]
    (work / "next.yaml").write_text(yaml.safe_dump(ingest))
    stored = {"base": str(ROOT / "configs" / "simulated.yaml")}
    stored["data"] = {"source": {"kind": "store", "location": str(work / "store")}}
    (work / "rows.yaml").write_text(yaml.safe_dump(stored))


def round_of(work: Path, library: str) -> dict[str, Callable[[], None]]:
    """What is timed, by name."""
    job = {name: str(ROOT / "jobs" / f"{name}.py") for name in ("ingest", "prepare")}
    day = str(FIRST_DAY + dt.timedelta(days=DAYS))

    def plain() -> None:
        script = str(ROOT / "benchmarks" / "plain_rows.py")
        command(work, script, library, str(work / "events"), str(work / "plain"))

    def cold() -> None:
        command(work, job["ingest"], "--config", "ingest.yaml")
        command(work, job["prepare"], "--config", "rows.yaml", "--set", f"output={work}/out")

    def again() -> None:
        command(work, job["prepare"], "--config", "rows.yaml", "--set", f"output={work}/again")

    def next_day() -> None:
        command(work, job["ingest"], "--config", "next.yaml", "--set", f"day={day}")

    return {"plain": plain, "cold": cold, "again": again, "next day": next_day}


def measured(work: Path, library: str, watch: bool) -> dict[str, float]:
    """Seconds of each step of a round; with `watch`, its memory is printed."""
    for name in ("store", "plain", "out", "again"):
        shutil.rmtree(work / name, ignore_errors=True)
    seconds = {}
    for name, step in round_of(work, library).items():
        memory = Memory()
        if watch:
            memory.start()
        start = time.perf_counter()
        step()
        seconds[name] = time.perf_counter() - start
        memory.ended = True
        told = f", at most {memory.peak:.2f} GB" if watch else ""
        print(f"  {name}: {seconds[name]:.1f} s{told}", flush=True)
    return seconds


def growth(work: Path, users: int, buckets: int) -> None:
    """Print how long `cold` takes at three sizes, and the seconds for each further million of events.

    Buckets grow with the users, as they are meant to.
    """
    before: tuple[int, float] | None = None
    for size in (users // 10, users // 2, users):
        place = work / str(size)
        place.mkdir(exist_ok=True)
        simulate(place, size)
        write_configs(place, max(1, buckets * size // users))
        for name in ("store", "out"):
            shutil.rmtree(place / name, ignore_errors=True)
        start = time.perf_counter()
        round_of(place, "duckdb")["cold"]()
        seconds = time.perf_counter() - start
        events = sum(pq.read_metadata(f).num_rows for t in TABLES for f in (place / "events" / t).glob("*/*.parquet"))
        print(f"{events:,} events: {seconds:.1f} s", flush=True)
        if before is not None:
            more = (seconds - before[1]) / (events - before[0]) * 1e6
            print(f"  {more:.2f} s for each further million", flush=True)
        before = events, seconds


def check_same_rows(work: Path) -> str:
    """Compare the rows of the last round.

    Raises:
        AssertionError: they differ.
    """
    prepared, n = next((work / "out").glob("prepare-*")), 0
    for split in ("pretrain", "probe", "test"):
        ours = _sorted(pq.read_table(prepared / "rows" / split), "user_id")
        plain = _sorted(pq.read_table(work / "plain" / f"{split}.parquet"), "user")
        assert ours["user_id"].to_pylist() == plain["user"].to_pylist(), f"{split}: other users"
        for table in TABLES:
            for field in ("time", "text"):
                mine, theirs = (_flat(rows[table], field) for rows in (ours, plain))
                assert mine.equals(theirs.cast(mine.type)), f"{split}: other {table}.{field}"
        labels = _sorted(pq.read_table(prepared / "labels" / split), "user_id")
        expected = _sorted(pq.read_table(work / "plain" / f"{split}_labels.parquet"), "user")
        names = [c for c in expected.column_names if c not in ("split", "user", "as_of")]
        for mine, theirs in zip(labels.column_names[2:], names, strict=True):
            assert labels[mine].to_pylist() == [bool(v) for v in expected[theirs].to_pylist()], f"{split}: other {mine}"
        n += len(ours)
    return f"{n:,} rows of both have the same users, times, texts and labels"


def _sorted(rows: pa.Table, user: str) -> pa.Table:
    return rows.sort_by(user).combine_chunks()


def _flat(column: pa.ChunkedArray, field: str) -> pa.Array:
    events = column.combine_chunks().flatten()
    values = events.field(field)
    return values.cast(pa.timestamp("us", "UTC")) if field == "time" else values


def main() -> None:
    """Print seconds and ratios of each round, and their medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="directory for events, stores and rows")
    parser.add_argument("--users", type=int, default=56_500, help="880 events each")
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pandas", action="store_true", help="compare with pandas instead of DuckDB")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--growth", action="store_true", help="what further events cost, instead of the rounds")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if options.growth:
        growth(work, options.users, options.buckets)
        return
    simulate(work, options.users)
    write_configs(work, options.buckets)
    library = "pandas" if options.pandas else "duckdb"
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1}", flush=True)
        rounds.append(measured(work, library, options.memory))
    for name in ("cold", "again"):
        ratios = sorted(each["plain"] / each[name] for each in rounds)
        told = f"{median(ratios):.2f} times the speed of plain {library}"
        print(f"{name}: {told} (rounds: {ratios[0]:.2f} to {ratios[-1]:.2f})")
    if not options.pandas:
        print(check_same_rows(work))


if __name__ == "__main__":
    main()

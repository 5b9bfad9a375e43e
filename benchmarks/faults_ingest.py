"""Kill ingests again and again, at random moments, two of them at once, and see what the event store holds.

    python benchmarks/faults_ingest.py [--kills 20] [--seed 0]

Made-up CSV files and the real job (jobs/ingest.py) on a Ray cluster of a head and two nodes. Until enough kills have
happened: write a new day's files and other content for an old one; start two jobs at once, one for the new day and one
for all days; at random moments SIGKILL a driver, one of its worker processes or a whole node; start the jobs again
until both end well. After every round the store must hold every event of every file once, as the files are now. A
reader takes the newest manifest all the while, and counts every state that is not whole files.
"""

import argparse
import datetime as dt
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import yaml
from deltalake import DeltaTable
from faults import Nodes, kill_worker

from ray_ggsm.config import InputError
from ray_ggsm.data.store.layout import table_place
from ray_ggsm.data.store.manifest import read_state

ROOT = Path(__file__).parents[1]
USERS, FILES, EVENTS = 200, 3, 2000
NOT_NOW = 4


class World:
    """Event files, and the store that they go into."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.store = directory, str(directory / "store")
        self.expected: dict[str, Counter[str]] = {}
        """File -> its events."""
        tables = {"clicks": {"files": f"{directory}/events/{{day}}/*.csv", "user": "uid", "time": "ts"}}
        values = {"store": self.store, "tables": tables, "buckets": 8, "mb_per_task": 1}
        (directory / "ingest.yaml").write_text(yaml.safe_dump(values))

    def write(self, day: dt.date, file: int, draw: random.Random) -> None:
        """A file of a day, over what it held before; every event has a name of its own."""
        path = self.directory / "events" / str(day) / f"{file}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        mark = draw.getrandbits(64)
        names = [f"{mark:x}-{k}" for k in range(EVENTS)]
        path.write_text(
            "uid,ts,item\n"
            + "".join(f"u{draw.randrange(USERS)},{day} {k % 24:02}:00:00,{n}\n" for k, n in enumerate(names))
        )
        self.expected[str(path)] = Counter(names)

    def command(self, day: dt.date | None) -> list[str]:
        """The job for a day, or for all."""
        job = [sys.executable, str(ROOT / "jobs" / "ingest.py"), "--config", str(self.directory / "ingest.yaml")]
        return job if day is None else [*job, "--set", f"day={day}"]

    def held(self) -> tuple[Counter[str], set[str]]:
        """Events of the newest manifest, and its files."""
        state = read_state(self.store)
        table = DeltaTable(table_place(self.store, "clicks"), version=state.tables["clicks"].version)
        rows = table.to_pyarrow_table(columns=["item"])
        return Counter(rows["item"].to_pylist()), {entry.path for entry in state.files.values()}


class Reader(threading.Thread):
    """Takes the newest manifest again and again, and notes what is wrong with it."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self.world, self.polls, self.wrong, self.stop = world, 0, 0, threading.Event()

    def run(self) -> None:
        """Until `stop`: whole files only, each event once."""
        while not self.stop.wait(0.5):
            try:
                events, files = self.world.held()
            except (KeyError, InputError):
                continue  # there is no manifest yet
            self.polls += 1
            self.wrong += set(events.values()) != {1} or len(events) != EVENTS * len(files)


def kill_one(job: "subprocess.Popen[bytes]", nodes: Nodes, draw: random.Random) -> str | None:
    """SIGKILL the driver, a busy worker or a node; returns which, None where no worker is busy."""
    who = draw.choice(("driver", "worker", "node"))
    if who == "driver":
        job.kill()
        return who
    return nodes.kill_one(draw) if who == "node" else kill_worker(nodes, draw)


def run_both(world: World, nodes: Nodes, day: dt.date, kills: int, draw: random.Random) -> tuple[list[str], int]:
    """Run the job for a day and the one for all days until both end well; returns who was killed, and the starts."""
    killed: list[str] = []
    log = (world.directory / "job.log").open("ab")
    open_jobs, starts = {"day": day, "all": None}, 0
    running: dict[str, subprocess.Popen[bytes]] = {}
    while open_jobs:
        assert starts < 200, (world.directory / "job.log").read_text()[-3000:]
        for name, which in open_jobs.items():
            if name not in running:
                running[name] = subprocess.Popen(world.command(which), stdout=log, stderr=log)
                starts += 1
        time.sleep(draw.uniform(1, 8))
        if len(killed) < kills:
            who = kill_one(draw.choice(list(running.values())), nodes, draw)
            killed += [who] if who else []
        for name, job in list(running.items()):
            code = job.poll()
            if code is None:
                continue
            del running[name]
            if code == 0:
                del open_jobs[name]
            else:
                assert code == NOT_NOW or killed, (world.directory / "job.log").read_text()[-3000:]
    return killed, starts


def main() -> None:
    """Print one line per round, and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, total, starts, rounds, lost, extra = random.Random(options.seed), 0, 0, 0, 0, 0
    nodes = Nodes()
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        reader = Reader(world)
        reader.start()
        while total < options.kills:
            day = dt.date(2025, 1, 1) + dt.timedelta(days=rounds)
            for file in range(FILES):
                world.write(day, file, draw)
            if rounds:
                world.write(day - dt.timedelta(days=1), 0, draw)
            rounds += 1
            killed, started = run_both(world, nodes, day, min(5, options.kills - total), draw)
            total, starts = total + len(killed), starts + started
            found, expected = world.held()[0], sum(world.expected.values(), Counter())
            lost += (expected - found).total()
            extra += (found - expected).total()
            print(f"{day}: {started} starts, killed {', '.join(killed) or 'nobody'}", flush=True)
        reader.stop.set()
        reader.join()
    nodes.cluster.shutdown()
    print(
        f"{total} kills, {starts} starts, {rounds} rounds of two jobs at once: {lost} events lost, {extra} doubled or "
        f"left of replaced files; {reader.polls} polls of the reader, {reader.wrong} of them not whole"
    )


if __name__ == "__main__":
    main()

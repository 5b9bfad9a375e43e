"""Kill a refresh again and again, at random moments, and see what the table is like.

    python benchmarks/faults.py [--kills 20] [--users 3000] [--seed 0]

Made-up users, a tiny random encoder, and the real job (jobs/refresh.py), which starts a Ray cluster of its own. Until
enough kills have happened: change a third of the users; start the job; at a random moment SIGKILL its driver or one of
its worker processes; start it again until it ends. After every version: each user once, nobody else, and vectors that
equal those of one undisturbed run over the same rows. Readers poll the table all the while, and count every version
that is not whole.
"""

import argparse
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from refresh_world import World

from ray_ggsm.config import InputError
from ray_ggsm.tables import open_table

WORKERS = ("ray::Map", "ray::_fill", "ray::ReadParquet", "ray::_Encode")


class Reader(threading.Thread):
    """Polls a table and notes what is wrong with what it sees."""

    def __init__(self, table: str, users: int) -> None:
        super().__init__(daemon=True)
        self.table, self.users, self.polls, self.wrong, self.stop = table, users, 0, 0, threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self.stop.wait(0.2):
            try:
                seen = open_table(self.table).read(columns=["user_id"])["user_id"]
            except InputError:
                self.wrong += Path(self.table, "_delta_log").exists()
                continue
            except Exception as error:
                print(f"the reader failed: {error!r}", flush=True)
                self.wrong += 1
                continue
            self.polls += 1
            self.wrong += not len(seen) == len(seen.unique()) == self.users


def kill_one(job: "subprocess.Popen[bytes]", draw: random.Random) -> str | None:
    """SIGKILL the driver or one busy worker; returns which."""
    try:
        processes = psutil.Process(job.pid).children(recursive=True)
        workers = [p for p in processes if p.name().startswith(WORKERS) or "ray::" in " ".join(p.cmdline()[:1])]
    except psutil.Error:
        return None
    if not workers or draw.random() < 0.5:
        job.kill()
        job.wait()
        psutil.wait_procs(processes, timeout=15)
        return "driver"
    victim = draw.choice(workers)
    name = victim.name()
    victim.kill()
    return name


def refresh(world: World, kills: int, draw: random.Random, longest: float) -> list[str]:
    """Run the job to its end, with at most so many kills; returns who was killed."""
    killed: list[str] = []
    while True:
        log = world.directory / "job.log"
        with log.open("ab") as output:
            job = subprocess.Popen(world.command(), stdout=output, stderr=output, start_new_session=True)
        if len(killed) < kills:
            try:
                job.wait(draw.uniform(3, longest))
            except subprocess.TimeoutExpired:
                killed += [who] if (who := kill_one(job, draw)) else []
        if job.wait() == 0:
            return killed
        assert killed, log.read_text()[-3000:]


def vectors(table: str) -> dict[str, np.ndarray]:
    """User -> vector of the newest version."""
    users, vector_ND = open_table(table).matrix()
    assert len(users) == len(set(users.tolist())), "a user stands in the table twice"
    return dict(zip(users.tolist(), vector_ND, strict=True))


def main() -> None:
    """Print one line per version, and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, lost, extra, other, total, rounds = random.Random(options.seed), 0, 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        settings = {
            "publishing": {"rows_per_bucket": 400},
            "embedding": {"tokens_per_batch": 4096, "rows_per_block": 200},
        }
        world = World(Path(first), options.users, 200, **settings)
        quiet = World(Path(second), options.users, 200, **settings)
        reader = Reader(world.table, options.users)
        reader.start()
        longest = 20.0
        while total < options.kills:
            rounds += 1
            for each in (world, quiet):
                each.change(1 / 3, rounds)
            killed = refresh(world, options.kills - total, draw, longest)
            total += len(killed)
            started = time.monotonic()
            refresh(quiet, 0, draw, 0)
            longest = time.monotonic() - started
            found, expected = vectors(world.table), vectors(quiet.table)
            lost += len(expected.keys() - found.keys())
            extra += len(found.keys() - expected.keys())
            other += sum(np.abs(found[user] - expected[user]).max() > 1e-5 for user in found.keys() & expected.keys())
            print(f"version {open_table(world.table).version}: killed {', '.join(killed) or 'nobody'}", flush=True)
        reader.stop.set()
        reader.join()
    print(
        f"{total} kills, {rounds} versions of {options.users} users: {lost} lost, {extra} repeated or unknown, "
        f"{other} with another vector; {reader.polls} polls of the reader, {reader.wrong} of them not whole"
    )


if __name__ == "__main__":
    main()

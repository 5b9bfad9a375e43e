"""Kill a refresh again and again, at random moments, and see what the table is like.

    python benchmarks/faults.py [--kills 20] [--users 4000] [--seed 0]

Made-up users, a tiny random encoder, and the real job (jobs/refresh.py) on a Ray cluster of a head and two nodes. Until
enough kills have happened: change a third of the users; start the job; at random moments SIGKILL its driver, one of
its worker processes or a whole node (another one joins then); start the job again until it ends well. After every
version: each user once, nobody else, and vectors that equal those of one undisturbed run over the same rows. Readers
poll the table all the while, and count every version that is not whole.
"""

import argparse
import os
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from night_world import World
from ray.cluster_utils import Cluster

from ray_ggsm.config import InputError
from ray_ggsm.tables import open_table

NODE = {"num_cpus": 2, "object_store_memory": 200_000_000}


class Nodes:
    """The cluster: a head that does no work, and two nodes that do."""

    def __init__(self) -> None:
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(2)]
        os.environ["RAY_ADDRESS"] = self.cluster.address

    def kill_one(self, draw: random.Random) -> str:
        """A whole node; another one takes its place."""
        lost = self.nodes.pop(draw.randrange(2))
        self.cluster.remove_node(lost, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE))
        return "node"

    def busy(self) -> list[psutil.Process]:
        """Worker processes that have something to do."""
        workers = []
        for node in self.nodes:
            for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children():
                title = "".join(process.cmdline()[:1])
                if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
                    workers.append(process)
        return workers


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


def kill_one(job: "subprocess.Popen[bytes]", nodes: Nodes, draw: random.Random) -> str | None:
    """SIGKILL the driver, a busy worker or a node; returns which, None where no worker is busy."""
    who = draw.choice(("driver", "worker", "node"))
    if who == "driver":
        job.kill()
        return who
    if who == "node":
        return nodes.kill_one(draw)
    try:
        victim = draw.choice(nodes.busy() or [None])
        if victim is None:
            return None
        title = victim.cmdline()[0].split("(")[0].removeprefix("ray::")
        victim.kill()
        return title
    except (psutil.NoSuchProcess, IndexError):
        return None


def refresh(world: World, nodes: Nodes, kills: int, draw: random.Random, longest: float) -> tuple[list[str], int]:
    """Run the job until it ends well, with at most so many kills; returns who was killed, and how often it started."""
    killed: list[str] = []
    log = world.directory / "job.log"
    for starts in range(1, 100):
        with log.open("ab") as output:
            job = subprocess.Popen(world.command(), stdout=output, stderr=output)
        while len(killed) < kills and job.poll() is None:
            try:
                job.wait(draw.uniform(3, longest / 2))
            except subprocess.TimeoutExpired:
                killed += [who] if (who := kill_one(job, nodes, draw)) else []
        if job.wait() == 0:
            return killed, starts
        assert killed, log.read_text()[-3000:]
    raise AssertionError(f"the job does not end: {log.read_text()[-3000:]}")


def vectors(table: str) -> dict[str, np.ndarray]:
    """User -> vector of the newest version."""
    users, vector_ND = open_table(table).matrix()
    assert len(users) == len(set(users.tolist())), "a user stands in the table twice"
    return dict(zip(users.tolist(), vector_ND, strict=True))


def main() -> None:
    """Print one line per version, and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, lost, extra, other, total, rounds, starts = random.Random(options.seed), 0, 0, 0, 0, 0, 0
    nodes, longest = Nodes(), 12.0
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        settings = {
            "publishing": {"rows_per_bucket": 400},
            "embedding": {"tokens_per_batch": 4096, "rows_per_chunk": 200},
        }
        world = World(Path(first), options.users, 200, **settings)
        quiet = World(Path(second), options.users, 200, **settings)
        reader = Reader(world.table, options.users)
        reader.start()
        while total < options.kills:
            rounds += 1
            for each in (world, quiet):
                each.change(1 / 3, rounds)
            killed, started = refresh(world, nodes, min(4, options.kills - total), draw, longest)
            total, starts = total + len(killed), starts + started
            began = time.monotonic()
            refresh(quiet, nodes, 0, draw, 0)
            longest = max(5.0, time.monotonic() - began)
            found, expected = vectors(world.table), vectors(quiet.table)
            lost += len(expected.keys() - found.keys())
            extra += len(found.keys() - expected.keys())
            other += sum(np.abs(found[user] - expected[user]).max() > 1e-5 for user in found.keys() & expected.keys())
            said = f"{started} starts, killed {', '.join(killed) or 'nobody'}; undisturbed it takes {longest:.0f} s"
            print(f"version {open_table(world.table).version}: {said}", flush=True)
        reader.stop.set()
        reader.join()
    nodes.cluster.shutdown()
    print(
        f"{total} kills, {starts} starts, {rounds} versions of {options.users} users: {lost} lost, {extra} repeated or "
        f"unknown, {other} with another vector; {reader.polls} polls of the reader, {reader.wrong} of them not whole"
    )


if __name__ == "__main__":
    main()

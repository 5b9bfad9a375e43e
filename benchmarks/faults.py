"""Kill a refresh again and again, disturb its table and its storage, and see what the table is like.

    python benchmarks/faults.py [--kills 32] [--users 6000] [--seed 0]

Made-up users, a tiny random encoder, the real jobs, a Ray cluster of a head and two nodes, and an object store (the
tests' S3 server) with the table. Until enough kills have happened: change a third of the users; start the job; at
random moments SIGKILL its driver, one of its worker processes, a whole node (another one joins then) or the head (all
is started anew), or end the driver by SIGTERM; start the job again until it ends well. In between, while the job runs:
users are forgotten, the table is vacuumed and rolled back, a second refresh is started, and the storage answers with
errors for 30 seconds, twice in all.

After every round: each user once, nobody else, nobody who was forgotten, and vectors that equal those of one
undisturbed run over the same rows. A reader polls the table all the while, and counts every version that is not whole
or has somebody who was forgotten before it was opened. Rows are counted where they are encoded: how many were encoded
a second time is held against one bucket per actor and kill. Every exit code is held against what README.md says.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import numpy as np
import psutil
from night_world import ROOT, World
from ray.cluster_utils import Cluster

from ray_ggsm.config import InputError
from ray_ggsm.tables import open_table
from tests.helpers import s3_server as s3

NODE = {"num_cpus": 2, "object_store_memory": 200_000_000}
OUTAGES, OUTAGE_SECONDS = 2, 30
KILLS = ("driver", "worker", "node", "terminate", "driver", "worker", "node", "head")
DISTURBANCES = ("forget", "vacuum", "rollback", "second")
CODES = {
    "kept running": {0, 4},
    "driver": {-signal.SIGKILL},
    "terminate": {128 + signal.SIGTERM},
    "head": {4},
    "second": {0, 4},
    "forget": {0},
    "vacuum": {0},
    "rollback": {0, 4},
}
"""What happened to a job last, or which one it is -> the exit codes that are right."""
HOOK = """
import json, os
import wrapt

def noted(call, self, arguments, named):
    result = call(*arguments, **named)
    users = arguments[0]["user_id"].to_pylist()
    with open(os.environ["ENCODED"], "a") as file:
        file.write(json.dumps(users) + "\\n")
    return result

@wrapt.when_imported("ray_ggsm.embedding.embedder")
def patch(module):
    wrapt.wrap_function_wrapper(module, "Embedder.__call__", noted)
"""
"""sitecustomize.py of all processes: notes whose vectors were computed."""


class Nodes:
    """The cluster: a head that does no work, and two nodes that do."""

    def __init__(self) -> None:
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        self._start()

    def _start(self) -> None:
        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        self.nodes = [self.cluster.add_node(**NODE) for _ in range(2)]
        os.environ["RAY_ADDRESS"] = self.cluster.address

    def kill_one(self, draw: random.Random) -> str:
        """A whole node; another one takes its place."""
        lost = self.nodes.pop(draw.randrange(2))
        self.cluster.remove_node(lost, allow_graceful=False)
        self.nodes.append(self.cluster.add_node(**NODE))
        return "node"

    def kill_head(self) -> None:
        """The head with all that it knew; a new cluster takes its place."""
        self.cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        for node in self.nodes:
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        self._start()

    def busy(self) -> list[psutil.Process]:
        """Worker processes that have something to do."""
        workers = []
        for node in self.nodes:
            for process in psutil.Process(node.all_processes["raylet"][0].process.pid).children():
                title = "".join(process.cmdline()[:1])
                if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
                    workers.append(process)
        return workers


@dataclass
class Forgotten:
    """Who may not be seen any more."""

    asked: set[str] = field(default_factory=set)
    """Their removal has begun."""
    done: set[str] = field(default_factory=set)
    """It has ended."""


class Reader(threading.Thread):
    """Polls a table and notes what is wrong with what it sees."""

    def __init__(self, table: str, users: int, forgotten: Forgotten) -> None:
        super().__init__(daemon=True)
        self.table, self.users, self.forgotten = table, users, forgotten
        self.polls, self.wrong, self.unread, self.stop = 0, 0, 0, threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self.stop.wait(1):
            gone = set(self.forgotten.done)
            try:
                seen = open_table(self.table).read(columns=["user_id"])["user_id"].to_pylist()
            except InputError:
                continue  # there is no table yet
            except Exception as error:
                # nobody can read while the storage answers with errors; rolled back and forgotten in one moment
                self.unread += 1
                print(f"the reader: {' '.join(repr(error).split())[:200]}", flush=True)
                continue
            self.polls += 1
            there, asked = set(seen), set(self.forgotten.asked)
            whole = len(seen) == len(there) and len(there | asked) == self.users
            self.wrong += not whole or bool(there & gone)


def kill_worker(nodes: Nodes, draw: random.Random) -> str | None:
    """SIGKILL a busy worker; returns its title, None where there is none."""
    try:
        victim = draw.choice(nodes.busy() or [None])
        if victim is None:
            return None
        title = victim.cmdline()[0].split("(")[0].removeprefix("ray::")
        victim.kill()
        return title
    except (psutil.NoSuchProcess, IndexError):
        return None


class Round:
    """One version under fire."""

    def __init__(self, world: World, nodes: Nodes, server: str, forgotten: Forgotten, draw: random.Random) -> None:
        self.world, self.nodes, self.server, self.forgotten, self.draw = world, nodes, server, forgotten, draw
        self.log, self.killed, self.starts, self.wrong = world.directory / "job.log", [], 0, []
        self.happened: Counter[str] = Counter()

    def run(self, kills: list[str], disturbances: list[str], longest: float) -> None:
        """Run the job until it ends well, with these kills and disturbances while it runs, as far as there is time."""
        while True:
            self.starts += 1
            assert self.starts < 40, f"the job does not end: {self.log.read_text()[-3000:]}"
            job, last = self._start(self.world.command()), "kept running"
            while (kills or disturbances) and job.poll() is None:
                try:
                    job.wait(self.draw.uniform(2, longest / 2))
                except subprocess.TimeoutExpired:
                    if disturbances and (not kills or self.draw.random() < 0.5):
                        self._disturb(disturbances.pop())
                    elif self._kill(kills[-1], job):
                        last = kills.pop()
            code = job.wait()
            right = CODES.get(last, CODES["kept running"]) | ({0} if last in ("terminate", "head", "driver") else set())
            if code not in right:
                self.wrong.append(f"{code} after {last}")
                print(f"exit code {code} after {last}:\n{self.log.read_text()[-2500:]}", flush=True)
            if code == 0:
                return

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output)

    def _kill(self, who: str, job: "subprocess.Popen[bytes]") -> bool:
        if who == "worker":
            title = kill_worker(self.nodes, self.draw)
            if title is None:
                return False
            who = f"worker {title}"
        elif who == "node":
            self.nodes.kill_one(self.draw)
        elif who == "head":
            self.nodes.kill_head()
        else:
            job.send_signal(signal.SIGKILL if who == "driver" else signal.SIGTERM)
            job.wait()
        self.killed.append(who)
        return True

    def _disturb(self, what: str) -> None:
        table, tables = self.world.table, [sys.executable, str(ROOT / "jobs" / "tables.py")]
        key = ["--key-file", str(self.world.directory / "key")]
        if what == "rollback" and open_table(table).version == 0:
            what = "vacuum"
        self.happened[what] += 1
        if what == "outage":
            with s3.faults(self.server, error=1.0):
                time.sleep(OUTAGE_SECONDS)
            return
        users: set[str] = set()
        if what == "forget":
            left = sorted(set(self.world.rows["user_id"].to_pylist()) - self.forgotten.asked)
            users = set(self.draw.sample(left, 3))
            (self.world.directory / "forget").write_text("\n".join(users))
            self.forgotten.asked |= users
            command = [*tables, "forget", table, "--users-file", str(self.world.directory / "forget"), *key]
        elif what == "vacuum":
            command = [*tables, "vacuum", table, "--retention-hours", "1"]
        elif what == "rollback":
            command = [*tables, "rollback", table, str(max(0, open_table(table).version - 1)), *key]
        else:
            command = self.world.command()
        code = self._start(command).wait()
        self.forgotten.done |= users
        if code not in CODES[what]:
            self.wrong.append(f"{code} of {what}")
            print(f"exit code {code} of {what}:\n{self.log.read_text()[-2500:]}", flush=True)


def vectors(table: str) -> dict[str, np.ndarray]:
    """User -> vector of the newest version."""
    users, vector_ND = open_table(table).matrix()
    assert len(users) == len(set(users.tolist())), "a user stands in the table twice"
    return dict(zip(users.tolist(), vector_ND, strict=True))


def encoded(file: Path, start: int) -> tuple[int, int, int]:
    """Rows encoded, and users, since an offset of the file of notes; and its size."""
    text = file.read_bytes()[start:]
    users = [user for line in text.splitlines() for user in json.loads(line)]
    return len(users), len(set(users)), start + len(text)


def disturbed(world: World, quiet: World, server: str, options: argparse.Namespace) -> None:
    """All rounds, and the verdict."""
    notes, draw, forgotten, offset = Path(os.environ["ENCODED"]), random.Random(options.seed), Forgotten(), 0
    nodes, longest, deck = Nodes(), 12.0, []
    totals: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    reader = Reader(world.table, options.users, forgotten)
    reader.start()
    while sum(killed.values()) < options.kills:
        totals["rounds"] += 1
        for each in (world, quiet):
            each.change(1 / 3, totals["rounds"])
        deck = deck or list(DISTURBANCES)
        draw.shuffle(deck)
        disturbances = [deck.pop() for _ in range(2)] if totals["rounds"] > 1 else ["second"]
        disturbances += ["outage"] if totals["rounds"] > 1 and totals["outage"] < OUTAGES else []
        kills = draw.sample(KILLS, min(4, options.kills - sum(killed.values())))
        one = Round(world, nodes, server, forgotten, draw)
        one.run(kills, disturbances, longest)
        rows, users, offset = encoded(notes, offset)
        began = time.monotonic()
        assert subprocess.run(quiet.command(), capture_output=True).returncode == 0
        offset = encoded(notes, offset)[2]
        longest = max(6.0, time.monotonic() - began)
        found, expected = vectors(world.table), vectors(quiet.table)
        expected = {user: vector for user, vector in expected.items() if user not in forgotten.done}
        totals["lost"] += len(expected.keys() - found.keys())
        totals["unknown"] += len(found.keys() - expected.keys())
        both = found.keys() & expected.keys()
        totals["other"] += sum(bool(np.abs(found[user] - expected[user]).max() > 1e-5) for user in both)
        totals["starts"] += one.starts
        totals["twice"] += rows - users
        totals["codes"] += len(one.wrong)
        killed.update(one.killed)
        totals.update(one.happened)
        said = f"{one.starts} starts; {', '.join(one.killed)}; {dict(one.happened)}; {rows - users} rows encoded twice"
        print(f"version {open_table(world.table).version}: {said}; undisturbed {longest:.0f} s", flush=True)
    reader.stop.set()
    reader.join()
    nodes.cluster.shutdown()
    print(
        f"{sum(killed.values())} kills {dict(killed)}; {dict(totals)}; bucket of "
        f"{options.users // open_table(world.table).buckets} rows; {len(forgotten.done)} users forgotten; "
        f"{reader.polls} polls of the reader, {reader.wrong} of them not whole, {reader.unread} not answered"
    )


def main() -> None:
    """Print one line per version, and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=32)
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as first,
        tempfile.TemporaryDirectory() as second,
        tempfile.TemporaryDirectory() as hook,
        s3.s3_server() as server,
    ):
        (Path(hook) / "sitecustomize.py").write_text(HOOK)
        (Path(hook) / "encoded").touch()
        os.environ |= s3.environment(server) | {"ENCODED": f"{hook}/encoded"}
        os.environ["PYTHONPATH"] = f"{hook}:{ROOT}"
        boto3.client("s3").create_bucket(Bucket=s3.BUCKET.removeprefix("s3://"))
        settings = {"embedding": {"tokens_per_batch": 4096}}
        place = {"table": f"{s3.BUCKET}/users", "event_vectors": f"{s3.BUCKET}/vectors"}
        world = World(Path(first), options.users, 200, **settings, **place, forgotten_key_file=f"{first}/key")
        (Path(first) / "key").write_text("f" * 64)
        world.table = place["table"]
        disturbed(world, World(Path(second), options.users, 200, **settings), server, options)


if __name__ == "__main__":
    main()

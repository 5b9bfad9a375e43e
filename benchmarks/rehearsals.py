"""Rehearse what goes wrong at night, on nodes with networks and disks of their own, and see what the table is like.

    python benchmarks/rehearsals.py [--only node_loss head ...]      (Linux, as root)

Everything runs in namespaces of Linux: a network with a bridge, and for each node of the Ray cluster an address, a
process table, a /tmp, a /dev/shm and a disk. Nothing outside is touched, other Ray clusters on the machine included.
The table lies on an S3 server (the tests'), the rows and the encoder on a disk that all nodes share. Each rehearsal
begins with version 0 of the table; half of the users have other rows then. It waits for states, never for seconds.
Afterwards the newest version must have each user once, with the vectors of an undisturbed run over the same rows.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

INSIDE = "RAY_GGSM_REHEARSAL"
ROOT = Path(__file__).parents[1]
NETWORK, HEAD, OUTSIDE = "10.77.0", "10.77.0.10", "10.77.0.1"
ADDRESS = f"{HEAD}:6379"
SHARED, DISK = Path("/mnt/shared"), "/mnt/disk"
USERS = 800
SETTINGS = {
    "embedding": {"tokens_per_batch": 2048},
    "publishing": {"rows_per_bucket": 100},
    "ray": {"embed_workers": {"min": 1, "max": 2}, "cache": "/tmp/cache", "resources_within_minutes": 5},
}
RAYS_OWN = re.compile(r"\(raylet\)|\(autoscaler|^\[?\d{4}-\d\d-\d\d |core_worker|^\s+warnings\.warn")
"""Lines that are Ray's and not the job's."""
WAITS = {"RAY_gcs_rpc_server_reconnect_timeout_s": "25"}
"""The head is given up after 15 s."""


def run(*command: object) -> None:
    """Run a command that must succeed."""
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def until(state: Callable[[], object], alive: Callable[[], bool] = lambda: True) -> bool:
    """Wait for a state; false when `alive` was false before another look."""
    while not state():
        if not alive():
            return bool(state())
        time.sleep(0.2)
    return True


def child(process: "subprocess.Popen[bytes]") -> int:
    """The process id of what `unshare` or `nsenter` runs."""
    place = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: place.read_text().strip(), lambda: process.poll() is None)
    return int(place.read_text().split()[0])


class Node:
    """A machine: namespaces of its own, in which a raylet runs."""

    def __init__(self, number: int, cpus: int, tmp: str = "2g") -> None:
        self.name, self.ip, self.link = f"n{number}", f"{NETWORK}.{number}", f"veth{number}"
        self.log, self.cpus, self.tmp = SHARED / f"{self.name}.log", cpus, tmp
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", self.link, "master", "bridge", "up")
        for rest in (f"addr add {self.ip}/24 dev eth0", "link set eth0 up", "link set lo up"):
            run("ip", "-n", self.name, *rest.split())

    def start(self) -> "Node":
        """Start the raylet, and all that belongs to the head on the head's address."""
        as_head = ["--head", "--port=6379", "--include-dashboard=false"]
        where = as_head if self.ip == HEAD else [f"--address={ADDRESS}"]
        ray = [
            sys.executable, "-m", "ray.scripts.scripts", "start", *where, f"--node-ip-address={self.ip}",
            f"--num-cpus={self.cpus}", "--object-store-memory=100000000", "--block",
        ]  # fmt: skip
        disks = "; ".join(
            f"mkdir -p {place}; mount -t tmpfs -o size={size} tmpfs {place}"
            for place, size in (("/tmp", self.tmp), ("/dev/shm", "300m"), (DISK, "50m"))
        )
        command = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command += ["--mount-proc", "bash", "-c", f"{disks}; exec {' '.join(ray)}"]
        for _ in range(5):  # Ray gives its processes a minute, which is too little on a loaded machine
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
            if until(lambda: "Ray runtime started" in self.log.read_text(), lambda: self.process.poll() is None):
                return self
        raise RuntimeError(self.log.read_text())

    def kill(self) -> None:
        """End everything on it at once, as when its power is cut."""
        self.process.kill()
        self.process.wait()

    def cut(self, whether: bool) -> None:
        """Pull its network cable, or put it back."""
        run("ip", "link", "set", self.link, "down" if whether else "up")

    def run(self, command: list[str], output: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Start a command on it."""
        enter = ["nsenter", f"--target={child(self.process)}", "--net", "--mount", "--pid"]
        with output.open("ab") as log:
            return subprocess.Popen([*enter, *command], stdout=log, stderr=log, env=os.environ | environment, cwd="/")


@dataclass
class Told:
    """What one rehearsal says."""

    done: str
    """What was done to the system."""
    attempts: list[tuple[str, int, float, str]] = field(default_factory=list)
    """Of each start of a job: its command, exit code, seconds and last lines."""
    notes: list[str] = field(default_factory=list)
    table: str = ""
    """What the table is like afterwards."""
    expected: dict = field(default_factory=dict)
    """User -> vector, where it is not that of the undisturbed run."""


class Job:
    """A refresh that runs on the node that the jobs start on."""

    def __init__(self, stage: "Stage", told: Told, table: str, *arguments: str) -> None:
        self.told, self.table, self.output = told, table, stage.directory / "job.log"
        self.output.unlink(missing_ok=True)
        command = [str(part) for part in stage.world.command("--set", f"table={table}", *arguments)]
        self.said, self.start = " ".join(["ray-ggsm", "refresh", "--config", "refresh.yaml", *arguments]), time.time()
        self.process = stage.jobs.run(command, self.output, {**WAITS, "RAY_ADDRESS": ADDRESS, "PYTHONPATH": str(ROOT)})

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def until_written(self, files: int = 1) -> bool:
        """Wait until it has written so many files of buckets; false: it has ended before."""
        from ray_ggsm import storage

        def new() -> bool:
            found = storage.list_files(f"{self.table}/data", ".parquet") if storage.exists(self.table) else []
            return len([file for file in found if "/data/base/" not in file]) - base >= files

        base = len(storage.list_files(f"{self.table}/data", ".parquet"))
        return until(new, self.runs)

    def until_said(self, text: str) -> bool:
        """Wait until it has printed a text; false: it has ended without."""
        return until(lambda: text in self.output.read_text(), self.runs)

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait()
        lines = [line for line in self.output.read_text().splitlines() if line.strip()]
        own = [line for line in lines if not RAYS_OWN.search(line)]
        shown = "\n".join(line[:400] for line in own[-4:])
        self.told.attempts.append((self.said, code, time.time() - self.start, shown))
        print(f"  exit code {code} after {time.time() - self.start:.0f} s", flush=True)
        return code


class Stage:
    """The cluster, the storage and the world that rehearsals have."""

    def __init__(self, server: str) -> None:
        from night_world import World

        from tests.helpers.s3_server import BUCKET

        self.server, self.bucket = server, BUCKET
        self.directory = SHARED / "world"
        self.directory.mkdir()
        (self.directory / "key").write_text("f" * 64)
        self.world = World(self.directory, USERS, 100, **SETTINGS, event_vectors=f"{BUCKET}/event_vectors")
        self.number = 20
        self.head = Node(10, 0).start()
        self.jobs = Node(11, 0).start()
        self.nodes = [self.add(), self.add()]
        self.before = self.undisturbed("base")
        self.world.change(0.5, 1)
        self.after = self.undisturbed("reference")

    def add(self, **changes: str) -> Node:
        """A further worker node."""
        self.number += 1
        return Node(self.number, 2, **changes).start()

    def again(self) -> None:
        """The head with all nodes anew."""
        for node in (self.head, self.jobs, *self.nodes):
            node.kill()
        self.head.start()
        self.jobs.start()
        self.nodes = [node.start() for node in self.nodes[:2]]

    def undisturbed(self, name: str) -> dict[str, bytes]:
        """User -> vector of a run to which nothing happens."""
        table, told = f"{self.bucket}/{name}", Told("nothing")
        job = Job(self, told, table)
        assert job.end() == 0, job.output.read_text()
        return vectors(table)

    def table(self, name: str) -> str:
        """A table of its own at version 0."""
        import s3fs

        fs, place = s3fs.S3FileSystem(), self.bucket.removeprefix("s3://")
        for file in fs.find(f"{place}/base"):
            fs.copy(file, file.replace(f"{place}/base", f"{place}/{name}", 1))
        return f"{self.bucket}/{name}"

    def judge(self, told: Told, table: str) -> None:
        """Is the table whole and right?"""
        import numpy as np

        from ray_ggsm.tables import open_table

        opened, found = open_table(table), vectors(table)
        metadata, problems = opened.metadata(), opened.verify(deep=True)
        expected = told.expected or (self.after if opened.version else self.before)
        off = max((float(np.abs(found[u] - expected[u]).max()) for u in found.keys() & expected.keys()), default=9.0)
        told.table = (
            f"version {opened.version}, {len(found)} of {len(expected)} users, {len(found.keys() - expected.keys())} "
            f"others, largest difference to the undisturbed vectors {off:.1g}, {len(problems)} damaged files"
        )
        assert found.keys() == expected.keys(), told.table
        assert off < 1e-5, told.table
        assert not problems, told.table
        assert metadata.rows == len(found)


def vectors(table: str) -> dict:
    """User -> vector of the newest version."""
    from ray_ggsm.tables import open_table

    users, vector_ND = open_table(table).matrix()
    assert len(users) == len(set(users.tolist())), "a user stands in the table twice"
    return dict(zip(users.tolist(), vector_ND, strict=True))


def slow(stage: Stage) -> contextlib.AbstractContextManager:
    """Slow storage, so that there is time to do something while a job writes."""
    from tests.helpers import s3_server as s3

    return s3.faults(stage.server, slow=1.0)


def at_work(stage: Stage, told: Told, table: str) -> Job:
    """A job that has written its first bucket."""
    job = Job(stage, told, table)
    assert job.until_written(), "it ended before"
    return job


def node_loss(stage: Stage, table: str) -> Told:
    """A worker node is lost."""
    told = Told("A worker node lost its power after the first bucket was written; another node joined.")
    with slow(stage):
        job = at_work(stage, told, table)
        stage.nodes.pop().kill()
        stage.nodes.append(stage.add())
    assert job.end() == 0
    return told


def head(stage: Stage, table: str) -> Told:
    """The head is killed and started again."""
    told = Told(
        "The head lost its power after the first bucket was written; a new cluster started; the same command again."
    )
    with slow(stage):
        job = at_work(stage, told, table)
        stage.head.kill()
        assert job.end() == 4
    stage.again()
    assert Job(stage, told, table).end() == 0
    return told


def partition(stage: Stage, table: str) -> Told:
    """A worker node loses its network, and gets it back."""
    told = Told(
        "A worker node's cable was pulled after the first bucket was written, and put back when the job had ended."
    )
    with slow(stage):
        job = at_work(stage, told, table)
        stage.nodes[-1].cut(True)
    assert job.end() == 0
    lost = stage.nodes.pop()
    lost.cut(False)
    ended = until(lambda: lost.process.poll() is not None)
    told.notes.append(f"When the cable was back, the node's raylet learned that it was given up, and ended: {ended}.")
    stage.nodes.append(stage.add())
    return told


def outage(stage: Stage, table: str) -> Told:
    """The object store answers with errors."""
    from tests.helpers import s3_server as s3

    told = Told(
        "The object store answered 500 to everything after the first bucket was written, until the job had ended."
    )
    with slow(stage):
        job = at_work(stage, told, table)
    with s3.faults(stage.server, error=1.0) as counts:
        assert job.end() == 4
    told.notes.append(f"{sum(counts.values())} requests were answered with errors.")
    stage.judge(told, table)
    told.notes.append(f"In between: {told.table}.")
    assert Job(stage, told, table).end() == 0
    return told


def disk_full(stage: Stage, table: str) -> Told:
    """The disk that all nodes share, with the table, is full."""
    place = Path("/mnt/small")
    run("mount", "-o", "remount,size=60k", "tmpfs", place)
    told = Told("The table lay on a shared disk of 60 kB; then the disk got 50 MB; the same command again.")
    assert Job(stage, told, f"{place}/users").end() == 4
    run("mount", "-o", "remount,size=50m", "tmpfs", place)
    assert Job(stage, told, f"{place}/users").end() == 0
    told.expected = stage.after
    return told


def unshared(stage: Stage, table: str) -> Told:
    """The table's path is another disk on every node."""
    told = Told(f"The table was {DISK}/users, and each node has a disk of its own there.")
    assert Job(stage, told, f"{DISK}/users").end() == 2
    return told


def second(stage: Stage, table: str) -> Told:
    """Two refreshes at once."""
    told = Told("A second refresh of the same table was started while one was at work.")
    with slow(stage):
        job = at_work(stage, told, table)
        first = stage.directory / "first.log"
        job.output.rename(first)
        other = Job(stage, told, table)
        assert other.end() == 4
    job.output = first
    assert job.end() == 0
    return told


def terminated(stage: Stage, table: str) -> Told:
    """SIGTERM, as when a pod is drained."""
    told = Told(
        "The job got SIGTERM after the first bucket was written, as when its pod is drained; the same command again."
    )
    with slow(stage):
        job = at_work(stage, told, table)
        os.kill(child(job.process), signal.SIGTERM)
        assert job.end() == 143
    assert Job(stage, told, table).end() == 0
    return told


def gate(stage: Stage, table: str) -> Told:
    """A gate fails."""
    limit = ("--set", "publishing.gates.max_similarity=0.01")
    told = Told("The gate `collapse` got a limit that no vectors keep to; then the gate was overruled.")
    assert Job(stage, told, table, *limit).end() == 3
    stage.judge(told, table)
    told.notes.append(f"In between: {told.table}.")
    assert Job(stage, told, table, *limit, "--publish-anyway", "rehearsal").end() == 0
    return told


def crowd(stage: Stage, table: str) -> Told:
    """No node has room."""
    told = Told("More was asked for than any node has, for at most 6 s.")
    big = ("--set", "ray.cpus_per_embed_worker=64", "--set", "ray.resources_within_minutes=0.1")
    assert Job(stage, told, table, *big).end() == 4
    assert Job(stage, told, table).end() == 0
    return told


def lost_bucket(stage: Stage, table: str) -> Told:
    """The bucket is lost, and only the list of the forgotten was kept."""
    from ray_ggsm import storage
    from ray_ggsm.cli import tables

    told = Told(
        "A user was forgotten. Then all of the table was lost, and the list of the forgotten put back; a refresh."
    )
    gone = sorted(stage.after)[0]
    (stage.directory / "gone").write_text(gone)
    command = ["--users-file", str(stage.directory / "gone"), "--key-file", str(stage.directory / "key")]
    assert tables.run_command(["forget", table, *command]) == 0
    entry = f"{table}/_suppressed/00000001.json"
    kept = storage.read_bytes(entry)
    storage.remove(table)
    storage.write_bytes(entry, kept)
    assert Job(stage, told, table, "--set", f"forgotten_key_file={stage.directory}/key").end() == 0
    told.expected = {user: vector for user, vector in stage.after.items() if user != gone}
    return told


REHEARSALS = {
    each.__name__: each
    for each in (unshared, node_loss, partition, head, outage, disk_full, second, terminated, gate, crowd, lost_bucket)
}


def autoscaling(stage: Stage, table: str) -> Told:
    """A cluster grows and shrinks, 0 -> N -> 0 nodes.

    Ray's fake provider makes them: its nodes are processes here, and all Ray processes are stopped at the end.
    """
    told = Told("A cluster of a head without CPUs grew when the job asked for room, and shrank when nobody did.")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    config = SHARED / "autoscaler.json"
    config.write_text(json.dumps(AUTOSCALER))
    command = [*ray, "start", "--head", "--port=6379", "--num-cpus=0", "--object-store-memory=100000000"]
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(run, *ray, "stop", "--force")
        subprocess.run([*command, f"--autoscaling-config={config}"], check=True, env=os.environ | fake)
        watch = [sys.executable, "-c", WATCH]
        counts = Path(SHARED / "counts")
        environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:6379"}
        with counts.open("wb") as log:
            watching = subprocess.Popen(watch, stdout=log, env=environment)
        at_the_end.callback(watching.terminate)
        until(lambda: counts.read_text().strip())
        command = [*stage.world.command(), "--set", f"table={table}"]
        start, output = time.time(), SHARED / "autoscaled.log"
        with output.open("wb") as log:
            code = subprocess.run(
                command, env=environment | {"PYTHONPATH": str(ROOT)}, stdout=log, stderr=log
            ).returncode
        lines = [line[:400] for line in output.read_text().splitlines() if line.strip() and not RAYS_OWN.search(line)]
        told.attempts.append(
            ("ray-ggsm refresh --config refresh.yaml", code, time.time() - start, "\n".join(lines[-4:]))
        )
        assert code == 0, output.read_text()
        until(lambda: counts.read_text().split()[-1] == "0")
        seen = counts.read_text().split()
        told.notes.append(f"Worker nodes, one after the other: {' -> '.join(seen)}.")
        assert seen[0] == seen[-1] == "0", seen
        assert max(seen) != "0", seen
    return told


AUTOSCALER = {
    "cluster_name": "rehearsal",
    "provider": {
        "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 2, "object_store_memory": 100_000_000}, "node_config": {}, "min_workers": 0,
            "max_workers": 2,
        },
    },
    "max_workers": 2, "upscaling_speed": 1.0, "idle_timeout_minutes": 0.2, "auth": {}, "docker": {},
    "file_mounts": {}, "file_mounts_sync_continuously": False,
    **{f"{name}_commands": [] for name in (
        "initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray",
    )},
    **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
}  # fmt: skip
"""What Ray's autoscaler is told."""

WATCH = """
import ray, time
ray.init(log_to_driver=False, logging_level="ERROR")
last = None
while True:
    alive = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if len(alive) != last:
        last = len(alive)
        print(last, flush=True)
    time.sleep(0.2)
"""
"""Prints the number of nodes with CPUs each time that it changes."""


@dataclass
class Result:
    """What stands in the file of results."""

    title: str
    told: Told
    seconds: float
    day: str


def keep(file: Path, name: str, result: Result) -> None:
    """Put a result into the file of results, in place of an earlier one, and write the page."""
    found = json.loads(file.read_text()) if file.exists() else {}
    found[name] = asdict(result)
    del found[name]["told"]["expected"]
    found = {each: found[each] for each in (*REHEARSALS, "autoscaling") if each in found}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
    (ROOT / "docs" / "rehearsals.md").write_text(page(found))


def page(found: dict) -> str:
    """The results as Markdown."""
    rows, parts = [], []
    for name, each in found.items():
        title, told = each["title"], each["told"]
        codes = ", then ".join(str(code) for _, code, _, _ in told["attempts"])
        rows.append(f"| `{name}` | {title} | {codes} | {each['seconds']:,.0f} | {each['day']} | {told['table']} |")
        shown = [
            f"`{said}` ended with **{code}** after {seconds:.0f} s:\n\n```\n{lines}\n```"
            for said, code, seconds, lines in told["attempts"]
        ]
        notes = "\n".join(f"- {note}" for note in [*told["notes"], f"Afterwards: {told['table']}."])
        first = title[0] if title[1].isupper() else title[0].lower()
        parts.append("\n\n".join([f"## {name}: {first}{title[1:]}", told["done"], *shown, notes]))
    head = PAGE.format(cores=os.cpu_count(), kernel=platform.release(), users=USERS)
    missing = [f"`{name}`" for name in (*REHEARSALS, "autoscaling") if name not in found]
    told = f"**Written, and not run to their end so far**: {', '.join(missing)}." if missing else "All were run."
    return "\n".join([head, *rows, "", told, "", "\n\n".join(parts), ""])


PAGE = """# Rehearsals

What `python benchmarks/rehearsals.py` did and saw (Linux {kernel}, {cores} cores, at times with other work:
seconds say little). Nodes are namespaces of one machine, each with a network, processes, /tmp, /dev/shm and a disk of
its own; the object store is the tests'. No Kubernetes, no real object store and no GPU was there. {users} made-up
users, a tiny encoder, buckets of about 100 rows; version 0 has everybody, and then half of the users have other rows.
The script writes this page, and ends with an error where an exit code or the table is not what it should be: each user
once, nobody else, the vectors of an undisturbed run over the same rows, every file as the log says.

| rehearsal | what went wrong | exit codes of the jobs | seconds | day | table afterwards |
|---|---|---|---|---|---|"""


@contextlib.contextmanager
def network() -> Iterator[None]:
    """The bridge that all nodes are connected to."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    yield


def enter() -> None:
    """Run this script again in namespaces of its own."""
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", sys.executable]
    sys.exit(subprocess.run([*command, *sys.argv], env=os.environ | {INSIDE: "1"}).returncode)


def inside(options: argparse.Namespace) -> list[str]:
    """All rehearsals; returns those that failed."""
    for place, size in (("/run", "50m"), ("/mnt", "1m")):
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    for place, size in ((SHARED, "500m"), (Path("/mnt/small"), "50m"), (Path(DISK), "50m")):
        place.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    os.environ.pop("RAY_ADDRESS", None)
    from tests.helpers import s3_server as s3

    failed: list[str] = []
    with network(), s3.s3_server(OUTSIDE) as server:
        os.environ |= s3.environment(server)
        import s3fs

        s3fs.S3FileSystem().mkdir(s3.BUCKET.removeprefix("s3://"))
        stage = Stage(server)
        print("the cluster is up, and two undisturbed runs are done", flush=True)
        for name in options.only or [*REHEARSALS, "autoscaling"]:
            print(name, flush=True)
            try:
                rehearse(stage, name, Path(options.results))
            except Exception:
                failed.append(name)
                traceback.print_exc()
                stage.again()
    return failed


def rehearse(stage: Stage, name: str, results: Path) -> None:
    """One rehearsal, its judgement, and its result."""
    table, start = stage.table(name), time.time()
    if name == "autoscaling":
        for node in (stage.head, stage.jobs, *stage.nodes):
            node.kill()
    play = autoscaling if name == "autoscaling" else REHEARSALS[name]
    told = play(stage, table)
    stage.judge(told, "/mnt/small/users" if name == "disk_full" else table)
    print(f"  {told.table}", flush=True)
    title = (play.__doc__ or "").splitlines()[0].rstrip(".")
    keep(results, name, Result(title, told, time.time() - start, time.strftime("%Y-%m-%d")))


def main() -> None:
    """Print a line per rehearsal, and write its result and the page of all results, docs/rehearsals.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[*REHEARSALS, "autoscaling"], help="some of them")
    parser.add_argument("--results", default=str(ROOT / "docs" / "results" / "rehearsals.json"), help="file of results")
    options = parser.parse_args()
    if os.environ.get(INSIDE) != "1":
        if sys.platform != "linux" or os.geteuid() or not shutil.which("ip"):
            parser.error("namespaces need Linux, root and iproute2")
        enter()
    sys.exit(f"failed: {', '.join(failed)}" if (failed := inside(options)) else 0)


if __name__ == "__main__":
    main()

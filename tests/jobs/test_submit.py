"""The jobs as `ray job submit` runs them, on a head node of their own. No other cluster is up at this point."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.waiting import Process

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
RAY = str(Path(sys.executable).with_name("ray"))
PORTS = (
    "port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
    "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip
NO_AGENT = "No available agent to submit job, please try again later"
Submit = Callable[..., "subprocess.CompletedProcess[str]"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Process]]:
    """The dashboard address of a head node, and its process; the node's processes end with the tests."""
    files = tempfile.mkdtemp(prefix="ray-")  # short: Ray puts sockets below it
    # every port of its own: agents of clusters that ended roughly may still sit on the default ones
    ports = {name: free_port() for name in PORTS}
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=4", "--object-store-memory=300000000", f"--temp-dir={files}",
        "--dashboard-host=127.0.0.1", *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    process = Process(command, tmp_path_factory.mktemp("head") / "output", Path(files), ENVIRONMENT)
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        process.wait_until(lambda: answers(address))
        yield address, process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.finish()
        shutil.rmtree(files, ignore_errors=True)


@pytest.fixture(scope="module")
def submit(head: tuple[str, Process], place: Path, tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """Submits jobs/NAME.py from a directory that holds the package, the jobs and the config."""
    address, node = head
    directory = tmp_path_factory.mktemp("submitted")
    for name in ("jobs", "ray_ggsm"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("clicks.csv", "config.yaml"):
        shutil.copy(place / name, directory)
    for name in ("decoder", "event_encoder"):
        shutil.copytree(place / name, directory / name)

    def run(name: str, *settings: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, f"jobs/{name}.py", "--config", "config.yaml"]
        command += [argument for setting in settings for argument in ("--set", setting)]
        command = [RAY, "job", "submit", f"--address={address}", f"--working-dir={directory}", "--", *command]

        def accepted() -> "subprocess.CompletedProcess[str] | None":
            """The dashboard answers before the node's agent has told it that it is there."""
            environment = {**os.environ, **ENVIRONMENT}
            job = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            return None if NO_AGENT in job.stderr else job

        return node.wait_until(accepted)

    return run


def test_prepare_and_train(submit: Submit, tmp_path: Path) -> None:
    for name in ("prepare", "train"):
        job = submit(name, f"output={tmp_path}", "training.steps=3")
        assert job.returncode == 0, job.stdout + job.stderr
        assert f"{name}: done in" in job.stdout
    assert list(tmp_path.glob("train-*/encoder/encoder.json"))


def test_a_mistake_is_in_the_jobs_log(submit: Submit, tmp_path: Path) -> None:
    job = submit("prepare", f"output={tmp_path}", "data.shards=two")
    assert job.returncode == 1
    assert "error: --set data.shards=two: data.shards: " in job.stdout


def test_an_output_in_the_jobs_own_copy_is_refused(submit: Submit) -> None:
    job = submit("prepare")
    assert job.returncode == 1
    assert "error: output: 'out' is relative" in job.stdout

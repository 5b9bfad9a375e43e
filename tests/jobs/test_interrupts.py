"""A training job that is stopped, by Ctrl-C and then by SIGKILL of its driver, goes on where it was. In this order."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from tests.undisturbed import undisturbed, weights

CONFIG = ("--config", "config.yaml")
RAY_AGENTS = ("ray::Dashboard", "ray::RuntimeEnv")
"""They idle on, as Ray has it, when a driver had no chance to end them."""
Start = Callable[..., "subprocess.Popen[str]"]


def in_session(leader: int, ignored: tuple[str, ...] = ()) -> list[psutil.Process]:
    """Processes that run in the session of `leader`, whether or not it lives; without those of these names."""
    found = []
    for process in psutil.process_iter():
        try:
            ended = process.status() == psutil.STATUS_ZOMBIE
            if os.getsid(process.pid) == leader and not ended and not process.name().startswith(ignored):
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_until(true: Callable[[], object], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def training(start: Start, place: Path) -> Iterator["subprocess.Popen[str]"]:
    """A training process that has just registered a new checkpoint."""
    before = checkpoints(place)
    process = start("train", *CONFIG)
    arrived = wait_until(lambda: checkpoints(place) - before or process.poll() is not None, 200)
    assert arrived, "no checkpoint in 200 s"
    assert process.poll() is None, process.communicate()[1]
    yield process
    for left in in_session(process.pid):
        left.kill()
    process.communicate()


@pytest.fixture(scope="module", autouse=True)
def prepared(start: Start) -> None:
    process = start("prepare", *CONFIG)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error


def checkpoints(place: Path) -> set[str]:
    """Names of the checkpoints that Ray Train has registered."""
    snapshots = list(place.glob("out/train-*/runs/train/checkpoint_manager_snapshot.json"))
    return {name for file in snapshots for name in file.read_text().split('"') if name.startswith("checkpoint_20")}


def test_ctrl_c(training: "subprocess.Popen[str]") -> None:
    started = time.monotonic()
    os.killpg(training.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    _, error = training.communicate(timeout=60)
    assert time.monotonic() - started < 15
    assert training.returncode == 1
    assert error.splitlines()[-1] == "Interrupted. Finished stages are kept; run the same command to go on."
    assert "Traceback" not in error
    assert wait_until(lambda: not in_session(training.pid), 15), in_session(training.pid)


def test_killed_driver(training: "subprocess.Popen[str]") -> None:
    training.kill()
    assert wait_until(lambda: not in_session(training.pid, RAY_AGENTS), 30), in_session(training.pid, RAY_AGENTS)


def test_the_run_goes_on_and_ends_bit_for_bit_like_an_undisturbed_one(
    start: Start, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("train", *CONFIG)
    output, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    assert "train: goes on from step" in output
    assert "] step 1/150" not in output
    (log,) = place.glob("out/train-*/log.json")
    assert [entry["step"] for entry in json.loads(log.read_text())] == list(range(1, 151))
    assert wait_until(lambda: not in_session(process.pid), 15), in_session(process.pid)
    monkeypatch.chdir(place)
    found = weights(log.parent / "encoder")
    for key, expected in undisturbed(load(Experiment, "config.yaml"), place / "undisturbed")[0].items():
        np.testing.assert_array_equal(found[key], expected, err_msg=key)

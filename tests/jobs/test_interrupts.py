"""A training job that is stopped, by Ctrl-C, SIGTERM and SIGKILL of its driver, goes on where it was. In this order."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from tests.helpers.undisturbed import undisturbed, weights
from tests.helpers.waiting import Process, wait_until
from tests.jobs.conftest import STEPS

RAY_AGENTS = ("ray::Dashboard", "ray::RuntimeEnv")
"""They idle on, as Ray has it, when a driver had no chance to end them."""
Start = Callable[..., Process]


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


@pytest.fixture
def training(start: Start, place: Path) -> Iterator[Process]:
    """A training process that has just registered a new checkpoint."""
    before = checkpoints(place)
    process = start("train")
    process.wait_until(lambda: checkpoints(place) - before)
    yield process
    for left in in_session(process.pid):
        left.kill()
    process.finish()


@pytest.fixture(scope="module", autouse=True)
def prepared(start: Start) -> None:
    start("prepare").succeed()


def checkpoints(place: Path) -> set[str]:
    """Names of the checkpoints that Ray Train has registered."""
    snapshots = list(place.glob("out/train-*/runs/train/checkpoint_manager_snapshot.json"))
    return {name for file in snapshots for name in file.read_text().split('"') if name.startswith("checkpoint_20")}


def test_ctrl_c(training: Process, place: Path) -> None:
    os.killpg(training.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    assert training.finish() == 1
    assert training.errors.splitlines()[-1] == "Interrupted. Finished stages are kept; run the same command to go on."
    assert "Traceback" not in training.errors
    assert not list(place.glob("out/train-*/stage.json")), "it trained to its end first"
    wait_until(lambda: not in_session(training.pid))


def test_sigterm(training: Process, place: Path) -> None:
    """As a scheduler ends a job: its driver is told, and takes the rest with it."""
    training.popen.terminate()
    assert training.finish() == 143
    last = training.errors.splitlines()[-1]
    assert last == "Terminated. Finished work is kept; run the same command to go on."
    assert "Traceback" not in training.errors
    assert not list(place.glob("out/train-*/stage.json")), "it trained to its end first"
    wait_until(lambda: not in_session(training.pid))


def test_killed_driver(training: Process) -> None:
    training.popen.kill()
    wait_until(lambda: not in_session(training.pid, RAY_AGENTS))


def test_the_run_goes_on_and_ends_bit_for_bit_like_an_undisturbed_one(
    start: Start, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("train")
    output = process.succeed()
    assert "train: goes on from step" in output
    assert f"] step 1/{STEPS}" not in output
    (log,) = place.glob("out/train-*/log.json")
    assert [entry["step"] for entry in json.loads(log.read_text())] == list(range(1, STEPS + 1))
    wait_until(lambda: not in_session(process.pid))
    monkeypatch.chdir(place)
    found = weights(log.parent / "encoder")
    for key, expected in undisturbed(load(Experiment, "config.yaml"), place / "undisturbed")[0].items():
        np.testing.assert_array_equal(found[key], expected, err_msg=key)

"""A directory with a click log, tiny models and a config of relative paths, and the jobs run in it."""

import itertools
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.clicks import changed, click_config, write_click_log, write_config
from tests.helpers.waiting import Process

STEPS = 80
"""Of training, with a checkpoint after every fifth: enough to break it off three times before its end."""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: str, tiny_event_encoder: str) -> Path:
    """Holds clicks.csv, decoder, event_encoder and config.yaml."""
    directory = tmp_path_factory.mktemp("place")
    write_click_log(directory / "clicks.csv")
    os.symlink(tiny_decoder, directory / "decoder")
    os.symlink(tiny_event_encoder, directory / "event_encoder")
    values = click_config("clicks.csv", "out", "decoder", "event_encoder")
    write_config(directory / "config.yaml", changed(values, training__steps=STEPS, training__checkpoint_every=5))
    return directory


@pytest.fixture
def job(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs jobs/NAME.py inside this process, in `place`, as `python jobs/NAME.py ARGUMENTS`; returns the exit code."""
    monkeypatch.chdir(place)

    def run(name: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [f"jobs/{name}.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="__main__")
        return int(stop.value.code or 0)

    return run


@pytest.fixture(scope="session")
def start(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Process]:
    """Starts jobs/NAME.py as a process, in `place`, with further variables in its environment."""
    files, numbers = tmp_path_factory.mktemp("output"), itertools.count()

    def run(name: str, *arguments: str, **environment: str) -> Process:
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--config", "config.yaml", *arguments]
        environment = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1", **environment}
        return Process(command, files / f"{next(numbers)}-{name}", place, environment)

    return run

"""A node that is lost with the training worker on it changes no bit: training goes on, on another node."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from tests.jobs.conftest import ROOT
from tests.undisturbed import undisturbed, weights

SETTINGS = ("training.steps=60", "training.checkpoint_every=5")
PATHS = {
    "output": "node_loss",
    "data.source.tables.clicks.files": "clicks.csv",
    "model.backbone.name": "decoder",
    "model.event_encoder.name": "event_encoder",
}
"""Absolute, since workers run in the directory of their node."""
NODE = {"num_cpus": 4, "object_store_memory": 200_000_000}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs: the work is done on other nodes."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200_000_000})
    yield cluster
    cluster.shutdown()


def test_a_lost_node(cluster: Cluster, place: Path) -> None:
    node = cluster.add_node(**NODE)
    changes = [*SETTINGS, *(f"{key}={place / name}" for key, name in PATHS.items())]
    settings = [argument for change in changes for argument in ("--set", change)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}

    def start(name: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--config", "config.yaml", *settings]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=place, env=environment, **pipes)

    prepared = start("prepare")
    _, error = prepared.communicate(timeout=120)
    assert prepared.returncode == 0, error
    training = start("train")
    registered = "node_loss/train-*/runs/train/checkpoint_manager_snapshot.json"
    deadline = time.monotonic() + 120
    while not any("checkpoint_20" in file.read_text() for file in place.glob(registered)):
        assert training.poll() is None, training.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint in 120 s"
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)
    output, error = training.communicate(timeout=150)
    assert training.returncode == 0, output + error
    assert "goes on from step" in output
    mine = load(Experiment, str(place / "config.yaml"), changes)
    expected, _ = undisturbed(mine, place / "undisturbed_node_loss")
    (encoder,) = place.glob("node_loss/train-*/encoder")
    for key, tensor in weights(encoder).items():
        np.testing.assert_array_equal(tensor, expected[key], err_msg=key)

"""A node that is lost with the training worker on it changes no bit: training goes on, on another node."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from tests.helpers.undisturbed import undisturbed, weights
from tests.helpers.waiting import Process

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
def cluster(monkeypatch: pytest.MonkeyPatch, warm_python: str) -> Iterator[Cluster]:
    """A head without CPUs: the work is done on other nodes."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setattr(sys, "executable", warm_python)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200_000_000})
    yield cluster
    cluster.shutdown()


def test_a_lost_node(cluster: Cluster, start: Callable[..., Process], place: Path) -> None:
    node = cluster.add_node(**NODE)
    changes = [*SETTINGS, *(f"{key}={place / name}" for key, name in PATHS.items())]
    settings = [argument for change in changes for argument in ("--set", change)]
    start("prepare", *settings, RAY_ADDRESS=cluster.address).succeed()
    training = start("train", *settings, RAY_ADDRESS=cluster.address)
    registered = "node_loss/train-*/runs/train/checkpoint_manager_snapshot.json"
    training.wait_until(lambda: any("checkpoint_20" in file.read_text() for file in place.glob(registered)))
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)
    assert "goes on from step" in training.succeed()
    experiment = load(Experiment, str(place / "config.yaml"), changes)
    expected, _ = undisturbed(experiment, place / "undisturbed_node_loss")
    (encoder,) = place.glob("node_loss/train-*/encoder")
    for key, tensor in weights(encoder).items():
        np.testing.assert_array_equal(tensor, expected[key], err_msg=key)

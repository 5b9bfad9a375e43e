"""One local Ray cluster and one S3 server for all tests here, and one finished run that they look at."""

import contextlib
import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray

from ray_ggsm.config import build
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.cluster.connection import start_here
from ray_ggsm.on_ray.quickstart import quickstart
from ray_ggsm.stages import Pipeline
from tests.helpers.clicks import changed, click_config, write_click_log
from tests.helpers.s3_server import BUCKET
from tests.helpers.s3_server import environment as s3_environment


@pytest.fixture(scope="session", autouse=True)
def cluster(s3_server: str, warm_python: str) -> Iterator[None]:
    """Ray with an S3 server in its environment: worker processes inherit what is set before they start."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_environment(s3_server).items():
            environment.setenv(name, value)
        environment.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with contextlib.closing(boto3.client("s3")) as client:
            client.create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        environment.setattr(sys, "executable", warm_python)
        start_here(cpus=6, object_store_bytes=400_000_000)
        yield
        ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def let_go(cluster: None) -> Iterator[None]:
    """Actors of runs that were broken off end with their handles; those in cycles would keep CPUs from later tests."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def values(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: str, tiny_event_encoder: str) -> dict[str, Any]:
    """The config of the shared run, as plain values."""
    directory = tmp_path_factory.mktemp("clicks")
    write_click_log(directory / "clicks.csv")
    return click_config(str(directory / "clicks.csv"), str(directory / "out"), tiny_decoder, tiny_event_encoder)


@pytest.fixture(scope="session")
def experiment(values: dict[str, Any]) -> Callable[..., Experiment]:
    """Builds the shared config with changes, for example `training__steps=3`."""
    return lambda **paths: build(Experiment, changed(values, **paths), "test")


@pytest.fixture(scope="session")
def finished(experiment: Callable[..., Experiment]) -> Experiment:
    """All stages of the shared config, done."""
    quickstart(Pipeline.of(experiment()))
    return experiment()


@pytest.fixture
def beside(finished: Experiment, tmp_path: Path) -> Callable[..., str]:
    """Builds a new output that holds copies of the shared run's directories with these names, and nothing else."""

    def copy(*names: str) -> str:
        for directory in Path(finished.output).iterdir():
            if directory.name.startswith(names):
                shutil.copytree(directory, tmp_path / directory.name)
        return str(tmp_path)

    return copy

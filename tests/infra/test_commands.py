"""The commands of all manifests, as they stand there, with --dry-run against an S3 server.

The pods of the night run against a scripted Kubernetes, on the templates that kustomize builds; what they make of them
is checked against KubeRay's schema, and its command is what runs. Only the day is the test's.
"""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
import yaml

from ray_ggsm.cli.main import main
from ray_ggsm.config import build
from ray_ggsm.data.definition import define, write
from ray_ggsm.data.fit import column_types
from ray_ggsm.data.schema import UTC
from ray_ggsm.experiment import Experiment
from ray_ggsm.model import saved
from tests.helpers import s3_server as s3
from tests.helpers.clicks import click_config, write_click_log
from tests.helpers.kubernetes_api import DONE, Cluster, serving
from tests.helpers.manifests import Manifest, built, check
from tests.helpers.tables import put, rows

BUCKET = "s3://example-bucket"
MINUTES = 28_514_940
"""From 1970 to the night of 2024-03-20 in Berlin, which is within the test's log of clicks."""
TODAY, YESTERDAY = "2024-03-20", "2024-03-19"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory, s3_server: str, tiny_decoder: str, tiny_event_encoder: str) -> Any:
    """What the manifests read lies in their bucket; the process has the variables of a pod with an identity."""
    from ray_ggsm.masks.fixed import BidirectionalConfig
    from tests.helpers.encoders import encoder_on

    place = tmp_path_factory.mktemp("bucket")
    write_click_log(place / "clicks.csv")
    clicks = f"{BUCKET}/incoming/day={YESTERDAY}/clicks.csv"
    table = {"files": clicks, "user": "uid", "time": "ts"}
    values = click_config(clicks, f"{BUCKET}/experiments", tiny_decoder, tiny_event_encoder)
    configs = {
        "experiment": values,
        "study": {
            "name": "Masks", "experiment": f"{BUCKET}/configs/experiment.yaml", "output": f"{BUCKET}/experiments/study",
            "reference": "causal",
            "variants": {"causal": {"mask": {"recipe": "causal"}}, "ggsm": {"mask": {"recipe": "ggsm"}}},
        },
        "ingest": {
            "store": f"{BUCKET}/store", "ready": f"{BUCKET}/incoming/ready-{{day}}",
            "tables": {"clicks": {**table, "files": f"{BUCKET}/incoming/day={{day}}/*.csv"}},
        },
        "refresh": {
            "encoder": f"{BUCKET}/experiments/train-*/encoder", "table": f"{BUCKET}/users", "carry": "none",
            "events": {"source": {"kind": "files", "tables": {"clicks": table}}, "max_bad_share": 0.02,
                       "minimum_events": {"table": "clicks", "count": 1}},
        },
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3.environment(s3_server).items():
            environment.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        there = s3fs.S3FileSystem()
        if not there.exists(BUCKET):
            there.mkdir(BUCKET)
        there.put(str(place / "clicks.csv"), clicks)
        for name, config in configs.items():
            there.pipe(f"{BUCKET}/configs/{name}.yaml", yaml.safe_dump(config).encode())
        encoder = f"{BUCKET}/experiments/train-0123456789abcdef/encoder"
        saved.save(encoder_on(tiny_decoder, BidirectionalConfig(recipe="bidirectional")), encoder)
        data = build(Experiment, values, "test").data
        write(define(data, column_types(data), {}, age_timezone=UTC), encoder)
        put(f"{BUCKET}/users", rows(7), "earlier")
        yield there
        there.rm(BUCKET, recursive=True)
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `ray-ggsm ...` and returns what it printed; it must end with 0."""

    def run(*command: str) -> str:
        assert command[0] == "ray-ggsm"
        monkeypatch.setattr(sys, "argv", list(command))
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert not stop.value.code, printed.err
        return printed.out

    return run


def templates(place: str = "base") -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in built(place) if each["kind"] == "RayJob"}


@pytest.mark.parametrize("name", ["ingest", "prepare", "train", "embed", "evaluate", "study", "refresh"])
def test_the_entrypoint_of_a_job(name: str, bucket: Any, call: Callable[..., str]) -> None:
    entrypoint = templates()[name]["spec"]["entrypoint"].replace("{today}", TODAY).replace("{yesterday}", YESTERDAY)
    before = bucket.find(BUCKET)
    plan = call(*shlex.split(entrypoint), "--dry-run")
    expected = {
        "ingest": f"{YESTERDAY}: clicks 1 files",
        "refresh": f"events as of {TODAY}; {BUCKET}/users is at version 0",
        "study": "causal",
    }
    assert expected.get(name, f"to do     {BUCKET}/experiments/{name}-") in plan
    bucket.invalidate_cache()
    assert bucket.find(BUCKET) == before


def pod(job: str, where: str = "base") -> Manifest:
    (found,) = (each for each in built(where) if each["kind"] == "CronJob" and each["metadata"]["name"] == job)
    spec: Manifest = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def test_the_pod_of_the_night(bucket: Any, call: Callable[..., str], tmp_path: Path, monkeypatch: Any) -> None:
    """Its init container runs the ingest and its container the refresh, each once, however often the pod starts."""
    night = pod("refresh")
    variables = {"JOB_NAME": f"refresh-{MINUTES}", "JOB_UID": "0123"}
    named = {e["name"]: e for e in night["containers"][0]["env"]}
    for variable, label in (("JOB_NAME", "job-name"), ("JOB_UID", "controller-uid")):
        assert (
            named[variable]["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.labels['batch.kubernetes.io/{label}']"
        )
    cluster = Cluster(*templates().values())
    cluster.statuses = [[DONE], [DONE]]
    with serving(cluster, tmp_path, monkeypatch):
        for container in [*night["initContainers"], *night["containers"]] * 2:
            call(*(re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], word) for word in container["args"]))
    assert cluster.runs() == [f"ingest-refresh-{MINUTES}-0", f"refresh-{MINUTES}-0"]
    for name in cluster.runs():
        made = {key: value for key, value in cluster.jobs[name].items() if key not in ("status", "later")}
        del made["metadata"]["creationTimestamp"]
        check(made)
        assert made["spec"]["suspend"] is False
        assert made["spec"]["rayClusterSpec"] == templates()[name.split("-")[0]]["spec"]["rayClusterSpec"]
        plan = call(*shlex.split(made["spec"]["entrypoint"]), "--dry-run")
        assert (TODAY if name.startswith("refresh") else YESTERDAY) in plan


def test_the_vacuum(bucket: Any, call: Callable[..., str]) -> None:
    (container,) = pod("vacuum")["containers"]
    assert "0 files would be removed" in call(*container["args"], "--dry-run")


def test_the_gauges_of_the_table(bucket: Any, call: Callable[..., str], tmp_path: Path) -> None:
    (deployment,) = (each for each in built("base") if each["kind"] == "Deployment")
    gauges, server = deployment["spec"]["template"]["spec"]["containers"]
    (line,) = re.findall(r"^ *(ray-ggsm .*)$", gauges["args"][0], re.M)
    call(*line.replace("/gauges/", f"{tmp_path}/").split())
    text = (tmp_path / "table.txt").read_text()
    assert f'ray_ggsm_table_last_publish_timestamp_seconds{{table="{BUCKET}/users"}}' in text
    assert server["args"][:3] == ["python", "-m", "http.server"]


def test_the_alternative_of_kuberay(bucket: Any, call: Callable[..., str]) -> None:
    (job,) = (each for each in built("overlays/raycronjob") if each["kind"] == "RayCronJob")
    entrypoint = job["spec"]["jobTemplate"]["entrypoint"]
    assert "refresh: events as of " in call(*shlex.split(entrypoint), "--dry-run")

"""Jobs on a cluster that knows nothing of them: started elsewhere, in another directory, without their environment."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.experiment import RayConfig
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.nodes import alive
from ray_ggsm.on_ray.cluster.places import check_place, check_shared
from tests.helpers import ROOT
from tests.helpers.waiting import Process

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000, "memory": 500_000_000}
SECRET = "a-secret-of-this-test"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, warm_python: str) -> Iterator[Cluster]:
    """Two nodes with a CPU each."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.setattr(sys, "executable", warm_python)
        environment.chdir(tmp_path_factory.mktemp("elsewhere"))
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
        for _ in range(2):
            cluster.add_node(**NODE)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process is connected, as a job is."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with started(RayConfig()):
        yield


Start = Callable[..., Process]


@pytest.fixture
def job(start: Start, cluster: Cluster) -> Start:
    """Starts a job on the cluster, with settings."""

    def run(name: str, *settings: str, **environment: str) -> Process:
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        return start(name, *arguments, RAY_ADDRESS=cluster.address, **environment)

    return run


def kept_by_the_head(address: str) -> list[bytes]:
    """The functions that Ray keeps for workers."""
    space = ray_constants.KV_NAMESPACE_FUNCTION_TABLE
    ray.init(address=address, log_to_driver=False)
    found = [_internal_kv_get(key, namespace=space) for key in _internal_kv_list(b"", namespace=space)]
    ray.shutdown()
    return found


def test_environment_and_relative_paths_reach_workers(job: Start, s3_bucket: str, cluster: Cluster) -> None:
    """The events are named by a relative path, and only the job knows the object store; nobody else hears a secret."""
    out = f"output={s3_bucket}/out"
    job("prepare", out, "data.shards=2", AWS_SECRET_ACCESS_KEY=SECRET).succeed()
    assert storage.glob(f"{s3_bucket}/out/prepare-*/data.json")
    written = [file for file in Path(cluster.head_node.get_session_dir_path()).rglob("*") if file.is_file()]
    assert any("environment_of_the_job" in file.read_text(errors="replace") for file in written)  # logs are there
    assert not [file for file in written if SECRET in file.read_text(errors="replace")]
    assert not any(SECRET.encode() in function for function in kept_by_the_head(cluster.address))


def test_an_environment_that_cannot_be_passed_on(job: Start, s3_bucket: str) -> None:
    hook = '{"runtime_env": {"worker_process_setup_hook": "gc.collect"}}'  # as of `ray job submit --runtime-env`
    refused = job("prepare", f"output={s3_bucket}/out", RAY_JOB_CONFIG_JSON_ENV_VAR=hook)
    assert refused.finish() == 2, refused.output + refused.errors
    assert f"output: {s3_bucket}/out: workers on node " in refused.errors
    assert "have no AWS_ACCESS_KEY_ID" in refused.errors


def test_workers_keep_their_own_environment(job: Start, s3_bucket: str) -> None:
    refused = job("prepare", f"output={s3_bucket}/out", "ray.pass_environment=[]", AWS_EC2_METADATA_DISABLED="true")
    assert refused.finish() == 2, refused.output + refused.errors
    assert "the storage refuses access" in refused.errors


def test_what_never_fits_ends_with_not_now(job: Start, tmp_path: Path) -> None:
    late = job("prepare", f"output={tmp_path}", "data.memory_gb=9999", "ray.resources_within_minutes=0.01")
    assert late.finish() == 4, late.output + late.errors
    assert "memory_gb: the cluster has no room for 1 task that prepares a shard with 1 CPU and 9999.7 GB" in late.errors
    assert "its largest nodes: 2 nodes with 1 CPU, 0 GPUs and 0.5 GB of memory; " in late.errors


def test_a_node_that_comes_is_used(job: Start, cluster: Cluster, tmp_path: Path) -> None:
    waiting = job("prepare", f"output={tmp_path}", "data.memory_gb=0.1", PYTHONUNBUFFERED="1")
    waiting.wait_until(lambda: "waiting up to 10 minutes for room for 1 task" in waiting.output)
    node = cluster.add_node(**{**NODE, "memory": 900_000_000})
    waiting.succeed()
    cluster.remove_node(node)


@pytest.mark.usefixtures("here")
def test_a_shared_directory(tmp_path: Path) -> None:
    check_place("output", str(tmp_path / "new"))
    assert not [*(tmp_path / "new").iterdir()]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_of_one_node(tmp_path: Path, exists: bool) -> None:
    """One node has another disk there, without or with a directory of the name."""
    other = next(node for node in alive() if node != ray.get_runtime_context().get_node_id())
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    if exists:
        theirs.mkdir()
    complaint = rf"output: {mine} is not shared: node .* \({other[:8]}\) does not find there what this job wrote"
    with pytest.raises(InputError, match=complaint):
        check_shared("output", str(mine), {other: str(theirs)})
    assert not [*mine.iterdir()]


@pytest.mark.usefixtures("here")
def test_a_directory_that_is_only_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node finds the file, but its answer goes elsewhere, as on a copy that is brought up to date one way."""
    from ray_ggsm.on_ray.cluster import places

    monkeypatch.setattr(places, "_answer_file", lambda directory, token, node: f"{directory}/never-written")
    with pytest.raises(InputError, match="writes to another directory of this name"):
        check_shared("output", str(tmp_path))

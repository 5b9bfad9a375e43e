"""What is asked of the cluster: refused, awaited or granted, but never waited for in silence."""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.data
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError
from ray.util import placement_group_table

from ray_ggsm.config import InputError, NotNow
from ray_ggsm.experiment import PoolSize, RayConfig
from ray_ggsm.on_ray.cluster import resources
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.devices import actor_options, actor_pool, encoders, training
from ray_ggsm.on_ray.cluster.resources import Need, Resources, fits, kept_room, require


def some_assignment_fits(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> bool:
    """Every way to put bundles on nodes, tried."""
    for places in itertools.product(range(len(nodes)), repeat=len(bundles)):
        totals = [
            {
                name: sum(b.get(name, 0) for b, p in zip(bundles, places, strict=True) if p == k)
                for name in ("CPU", "GPU")
            }
            for k in range(len(nodes))
        ]
        if all(total[name] <= node.get(name, 0) for total, node in zip(totals, nodes, strict=True) for name in total):
            return True
    return False


SOME = st.integers(0, 4)


@given(
    nodes=st.lists(st.fixed_dictionaries({"CPU": SOME, "GPU": st.integers(0, 2)}), max_size=3),
    cpus=st.integers(0, 3),
    gpus=st.integers(0, 1),
    count=st.integers(1, 4),
    beside=st.integers(0, 1),
)
def test_fits_is_what_trying_everything_finds(
    nodes: list[dict[str, int]], cpus: int, gpus: int, count: int, beside: int
) -> None:
    each = {"CPU": cpus, "GPU": 0 if cpus and beside else gpus}  # encoder actors have either
    bundles = Need("key", "actor", each, count, beside).bundles
    assert fits(bundles, nodes) == some_assignment_fits(bundles, nodes)


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (RayConfig(embed_workers=6), "6 encoder actors with 1 CPU each, and 1 CPU for the tasks beside"),
        (RayConfig(embed_workers=1, cpus_per_embed_worker=7), "1 encoder actor with 7 CPUs, and 1 CPU for"),
        (RayConfig(gpu=True), "2 encoder actors with 1 GPU each, and 1 CPU for"),
        (RayConfig(gpu=True, gpus_per_embed_worker=0.25), "2 encoder actors with 0.25 GPUs each, and 1 CPU for"),
    ],
)
def test_a_cluster_of_the_job_refuses_at_once(config: RayConfig, asked: str) -> None:
    with pytest.raises(InputError, match=f"ray.*embed_workers: this machine has no room for {asked}") as refused:
        actor_pool(config, 100)
    assert "its largest nodes: 1 node with 6 CPUs, 0 GPUs and " in str(refused.value)


@pytest.mark.parametrize(
    ("workers", "at_most", "sizes"),
    [(2, 100, (2, 2)), (100, 3, (3, 3)), (PoolSize(min=2, max=50), 100, (2, 50)), (PoolSize(min=2, max=50), 1, (1, 1))],
)
def test_the_pool_is_no_larger_than_its_work(workers: int | PoolSize, at_most: int, sizes: tuple[int, int]) -> None:
    pool = actor_pool(RayConfig(embed_workers=workers), at_most)
    assert (pool.min_size, pool.max_size) == sizes


Looks = list[list[dict[str, object]]]


@pytest.fixture
def grows(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Resources]], Looks]:
    """Makes the cluster one of others, with these nodes at the second look after the waiting began; returns what an
    autoscaler could see at each look."""

    def grow(later: Sequence[Resources]) -> Looks:
        real, looks = resources._nodes, Looks()
        monkeypatch.setattr(resources, "started_by_job", lambda: False)
        monkeypatch.setattr(resources, "_nodes", lambda: later if len(looks) >= 2 else real())

        def sleep(_: float) -> None:
            states = placement_group_table().values()
            looks.append([group for group in states if group["state"] in ("PENDING", "CREATED")])

        monkeypatch.setattr(resources.time, "sleep", sleep)
        return looks

    return grow


def test_a_cluster_that_grows_is_awaited(grows: Callable[[Sequence[Resources]], Looks]) -> None:
    looks = grows([{"CPU": 4, "GPU": 1}] * 3)
    require(training(RayConfig(gpu=True, train_workers=3)), RayConfig())
    assert len(looks) == 2
    for groups in looks:  # an autoscaler sees what is missing
        (group,) = groups
        assert group["state"] == "PENDING"
        assert list(group["bundles"].values()) == [{"CPU": 2, "GPU": 1}] * 3
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())


def test_a_cluster_that_does_not_grow(
    grows: Callable[[Sequence[Resources]], Looks], capsys: pytest.CaptureFixture[str]
) -> None:
    grows([])
    config = RayConfig(gpu=True, resources_within_minutes=0)
    with pytest.raises(NotNow, match=r"ray\.gpu, .*embed_workers: the cluster has no room for 1 encoder actor with"):
        require(encoders(config), config)
    assert capsys.readouterr().out.startswith("waiting up to 0 minutes for room for 1 encoder actor with 1 GPU, and 1")


def test_the_largest_nodes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that another one outdoes in everything is not worth a word."""
    small, cpus, gpus = {"CPU": 1, "memory": 2e9}, {"CPU": 64, "memory": 8e9}, {"CPU": 8, "GPU": 4, "memory": 64e9}
    monkeypatch.setattr(resources, "_nodes", lambda: [small, cpus, gpus, cpus, small])
    with pytest.raises(InputError) as refused:
        require(Need("key", "task", {"CPU": 65}), RayConfig())
    assert (
        "1 node with 8 CPUs, 4 GPUs and 64 GB of memory; 2 nodes with 64 CPUs, 0 GPUs and 8 GB of memory; ask"
        in str(refused.value)
    )


def test_what_others_use_counts_as_there() -> None:
    """Work behind other work waits, which ends: it is no reason to refuse."""

    @ray.remote(num_cpus=1)
    class Busy:
        def ready(self) -> None: ...

    busy = Busy.remote()
    ray.get(busy.ready.remote())
    require(Need("key", "task", {"CPU": 6}), RayConfig())
    ray.kill(busy)


def test_tasks_that_come_to_a_halt(tmp_path: Path) -> None:
    """A job does not wait for ever for what never ends."""

    def waits(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        while not (tmp_path / "over").exists():  # its CPU is needed by the tests that follow
            time.sleep(0.1)
        return batch

    told = r"nothing got on within 0\.02 minutes .*of the cluster, its largest nodes: 1 node"
    with pytest.raises(NotNow, match=told), started(RayConfig(stalled_after_minutes=0.02)):
        ray.data.range(1).map_batches(waits).materialize()
    (tmp_path / "over").touch()
    with started(RayConfig()):
        assert ray.data.DataContext.get_current().execution_no_progress_timeout_s == 3600


def test_tasks_whose_nodes_went(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits in Ray is ended once the nodes have had no room for long; a short loss does nothing."""
    need, config = Need("key", "task", {"CPU": 1}), RayConfig(stalled_after_minutes=0.01)
    monkeypatch.setattr(resources, "started_by_job", lambda: False)
    monkeypatch.setattr(resources, "POLL_SECONDS", 0.05)
    real, looks = resources._nodes(), itertools.count()
    monkeypatch.setattr(resources, "_nodes", lambda: [] if next(looks) % 3 else real)
    never = ray.remote(num_cpus=1000)(lambda: 0).remote()
    with kept_room(need, config):
        ray.wait([never], timeout=1.5)
    monkeypatch.setattr(resources, "_nodes", list)
    told = (
        r"key: nodes went, and for 0\.01 minutes \(ray\.stalled_after_minutes\) the cluster has had no room for 1 task"
    )
    with pytest.raises(NotNow, match=told), kept_room(need, config):
        ray.get(never)
    ray.cancel(never)


class _Deadly:
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with open(str(batch["file"][0]), "a") as calls:
            calls.write("x")
        os._exit(1)


def test_a_chunk_that_ends_every_process(tmp_path: Path) -> None:
    """With a limit, the job fails once an actor has been started anew that often."""
    config, calls = RayConfig(embed_workers=1, max_restarts=2), tmp_path / "calls"
    with started(config):  # as jobs do
        actors = {"compute": actor_pool(config, 1), **actor_options(config)}
        with pytest.raises(ActorDiedError):
            ray.data.from_items([{"file": str(calls)}]).map_batches(_Deadly, **actors).materialize()
    assert calls.read_text() == "xxx"

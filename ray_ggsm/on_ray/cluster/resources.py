"""Does what a job asks of Ray fit into the cluster? Ray itself would wait for ever, without a word.

A cluster that can grow is told what is missing, and gets some time. Only what nodes have counts, not what is free: work
behind other work has to wait, and that ends.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from ray_ggsm.config import InputError, NotNow
from ray_ggsm.experiment import RayConfig
from ray_ggsm.interrupts import Interrupt, watched
from ray_ggsm.on_ray.cluster.nodes import started_by_job

Resources = Mapping[str, float]
"""Resource of Ray -> amount; memory in bytes."""
POLL_SECONDS = 2.0
"""Time between two looks at the nodes."""
SHOWN = 3
"""Kinds of nodes that a sentence lists."""
UNITS = {"CPU": "CPU", "GPU": "GPU", "memory": "GB of memory"}
"""What a sentence says of nodes; Ray's other resources matter to nobody here."""


@dataclass(frozen=True)
class Need:
    """Actors or tasks that must be able to run at the same time."""

    keys: str
    """Config keys that it comes from; a sentence begins with them."""
    what: str
    """Name of one of them, for people."""
    each: Resources
    """Resources of one of them."""
    count: int = 1
    beside: int = 0
    """CPUs for the tasks that feed them, of which each takes one."""

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The resources of every one of them."""
        each = {name: amount for name, amount in self.each.items() if amount}
        return [each] * self.count + [{"CPU": 1.0}] * self.beside

    def __str__(self) -> str:
        several = self.count > 1
        tasks = f", and {_amounts({'CPU': self.beside})} for the tasks beside" if self.beside else ""
        return f"{self.count} {self.what}{'s' * several} with {_amounts(self.each)}{' each' * several}{tasks}"


TASK = Need("ray", "task", {"CPU": 1})
"""What every job needs."""


def require(need: Need, config: RayConfig) -> None:
    """Return as soon as the nodes of the cluster have room for what is needed.

    Raises:
        InputError: they have not, and this cluster never grows.
        NotNow: they have not had it for `config.resources_within_minutes`.
    """
    if fits(need.bundles, _nodes()):
        return
    if started_by_job():
        raise InputError(
            f"{need.keys}: this machine has no room for {need}; {largest()}; ask for less, give Ray more of it "
            "(ray.local_cpus), or use a cluster (RAY_ADDRESS)"
        )
    minutes = config.resources_within_minutes
    print(f"waiting up to {minutes:g} minutes for room for {need}; {largest()}", flush=True)
    end = time.monotonic() + 60 * minutes
    with _demanded(need):
        while not fits(need.bundles, _nodes()):
            if time.monotonic() >= end:
                raise NotNow(
                    f"{need.keys}: the cluster has no room for {need}, and got none within {minutes:g} minutes "
                    f"(ray.resources_within_minutes); {largest()}; ask for less, or give the cluster other nodes"
                )
            time.sleep(POLL_SECONDS)


def fits(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> bool:
    """Whether all bundles have room on the nodes at the same time, each on one node.

    The first node with room takes a bundle, which loses nothing as long as all are alike, but for single CPUs.
    """
    left = [dict(node) for node in nodes]
    for bundle in bundles:
        node = next((n for n in left if all(n.get(name, 0) >= amount for name, amount in bundle.items())), None)
        if node is None:
            return False
        for name, amount in bundle.items():
            node[name] -= amount
    return True


@contextmanager
def kept_room(need: Need, config: RayConfig) -> Iterator[None]:
    """A block whose work needs room on the nodes, also after some of them went: Ray would wait for others for ever.

    Raises:
        NotNow: the nodes have had no room for `config.stalled_after_minutes`.
    """
    if started_by_job():  # its only node is this machine
        yield
        return
    with watched(partial(_watch, need, config)):
        yield


def _watch(need: Need, config: RayConfig, interrupt: Interrupt, stop: threading.Event) -> None:
    minutes, seen = config.stalled_after_minutes, time.monotonic()
    while not stop.wait(POLL_SECONDS):
        try:
            has_room = fits(need.bundles, _nodes())
        except Exception:  # the head does not answer; it is watched elsewhere
            has_room = True
        if has_room:
            seen = time.monotonic()
        elif time.monotonic() - seen > 60 * minutes:
            interrupt.end(
                f"{need.keys}: nodes went, and for {minutes:g} minutes (ray.stalled_after_minutes) the cluster has had "
                f"no room for {need}; {largest()}; finished work is kept, start again when it has nodes"
            )
            return


@contextmanager
def _demanded(need: Need) -> Iterator[None]:
    """A placement group that nobody uses: autoscalers see that it waits, and it ends with this job at the latest."""
    group = placement_group(need.bundles, strategy="PACK", name=f"ray_ggsm: {need.what}")
    try:
        yield
    finally:
        remove_placement_group(group)


def _nodes() -> list[Resources]:
    """The resources of the nodes that are alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def largest() -> str:
    """What the largest nodes have."""
    kinds = Counter(tuple(_rounded(node.get(name, 0)) for name in UNITS) for node in _nodes())
    most = sorted(kinds, key=lambda kind: (kind[1], kind[0], kind[2]), reverse=True)
    shown = [kind for kind in most if not any(_is_larger(other, kind) for other in most)][:SHOWN]
    listed = "; ".join(f"{_count(kinds[kind])} with {_amounts(dict(zip(UNITS, kind, strict=True)))}" for kind in shown)
    return f"its largest nodes: {listed or 'none'}"


def _rounded(amount: float) -> float:
    """To three digits, in which nodes of one kind do not differ."""
    return float(f"{amount:.3g}")


def _is_larger(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _count(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def _amounts(resources: Resources) -> str:
    """Such as '2 CPUs, 1 GPU and 3.5 GB of memory'."""
    amounts = {name: resources[name] / 1e9 if name == "memory" else resources[name] for name in resources}
    *first, last = [
        f"{round(amount, 1 if name == 'memory' else 2):g} {UNITS[name]}{'s' * (name != 'memory' and amount != 1)}"
        for name, amount in amounts.items()
    ]
    return f"{', '.join(first)} and {last}" if first else last

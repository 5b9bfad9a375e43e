"""The nodes of the cluster, and what each of them answers."""

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")
STARTED_BY_JOB = {"ray-ggsm-started-by": "job"}
"""Label of the node of a cluster that a job started itself."""


def on_all_nodes(work: Callable[..., T], *arguments: Any, but_this: bool = False) -> dict[str, T]:
    """Call a function on every node that is alive; returns id of the node -> result. Nodes that end meanwhile are left
    out.

    Args:
        work: the function; it takes no CPU.
        arguments: its arguments.
        but_this: leave out the node of this process.
    """
    here = ray.get_runtime_context().get_node_id()
    task = ray.remote(num_cpus=0, max_retries=0)(work)
    asked = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(*arguments)
        for node in alive()
        if not (but_this and node == here)
    }
    answers: dict[str, T] = {}
    for node, answer in asked.items():
        try:
            answers[node] = ray.get(answer)
        except RayTaskError:
            raise
        except RayError:
            if node in alive():
                raise
    return answers


def started_by_job() -> bool:
    """Whether a job started this cluster itself: its only node is the job's machine, for ever."""
    return any(STARTED_BY_JOB.items() <= node["Labels"].items() for node in ray.nodes())


def alive() -> list[str]:
    """The ids of the nodes that are alive."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def name_of(node: str) -> str:
    """A node's address and id, for people."""
    (address,) = (each["NodeManagerAddress"] for each in ray.nodes() if each["NodeID"] == node)
    return f"{address} ({node[:8]})"

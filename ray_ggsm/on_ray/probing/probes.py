"""All probes of an evaluation as Ray tasks over shared matrices."""

import itertools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray

from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.labels import ProbeData
from ray_ggsm.evaluation.probes import ProbeResult, fit_and_score
from ray_ggsm.progress import bar

Probed = dict[tuple[str, Kind], dict[str, ProbeResult]]
"""(vectors, probe) -> label -> result."""


def probe_all(config: ProbeConfig, seed: int, vectors: Mapping[str, ProbeData]) -> Probed:
    """Fit and score every probe of every label on several kinds of vectors.

    Args:
        config: probe settings.
        seed: of folds and LightGBM.
        vectors: name -> rows to fit and to score on; all with the same labels.
    """
    labels = list(next(iter(vectors.values())).fit.labels)
    probe = _probe.options(num_cpus=_cpus_per_core())  # each has its own copy of the rows: no more at once than cores
    tasks: dict[tuple[str, str, str], Any] = {}
    for name, data in vectors.items():
        fit, score = data.fit, data.score
        _, user_N = np.unique(fit.users, return_inverse=True)  # numbers are shared too; strings each task would copy
        shared = [ray.put(x) for x in (fit.vectors, user_N, score.vectors)]
        slow_first = sorted(config.kinds)  # LightGBM before linear, so that no core waits long at the end
        for kind, label in itertools.product(slow_first, labels):
            values = (fit.labels[label], score.labels[label])
            tasks[name, kind, label] = probe.remote(kind, label, *shared, *values, config, seed)
    _wait(list(tasks.values()))
    return {
        (name, kind): {label: ray.get(tasks[name, kind, label]) for label in labels}
        for name, kind in itertools.product(vectors, config.kinds)
    }


def _wait(tasks: list[Any]) -> None:
    """Wait for all tasks, with a line now and then."""
    waiting = tasks
    for done in range(1, len(tasks) + 1):
        _, waiting = ray.wait(waiting)
        if done % 9 == 0 or not waiting:
            print(f"{bar(done / len(tasks))} {done}/{len(tasks)} probes", flush=True)


def _cpus_per_core() -> int:
    """Logical CPUs that stand for one core here: more than one on a laptop whose cluster claims more than it has."""
    node = ray.get_runtime_context().get_node_id()
    (claimed,) = (n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == node)
    return max(1, int(claimed / (os.cpu_count() or 1)))


@ray.remote
def _probe(
    kind: Kind,
    label: str,
    train_ND: np.ndarray,
    users_N: np.ndarray,
    test_MD: np.ndarray,
    labels_N: np.ndarray,
    labels_M: np.ndarray,
    config: ProbeConfig,
    seed: int,
) -> ProbeResult:
    return fit_and_score(kind, train_ND, labels_N, users_N, test_MD, labels_M, config, seed, 1, label=label)

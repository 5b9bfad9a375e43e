"""All probes of an evaluation as Ray tasks over shared matrices."""

import itertools
import os
from collections.abc import Mapping

import numpy as np
import ray

from ray_ggsm.evaluation.alignment import ProbeData
from ray_ggsm.evaluation.config import Kind, ProbeConfig
from ray_ggsm.evaluation.probes import ProbeResult, fit_and_score
from ray_ggsm.evaluation.results import Probed
from ray_ggsm.progress import bar

PER_LINE = 9
"""Number of probes per line of progress."""


def probe_all(config: ProbeConfig, seed: int, vectors: Mapping[str, ProbeData]) -> Probed:
    """Fit every probe on all vectors, for every label, and score the test rows.

    Args:
        config: settings of the probes.
        seed: seed of the folds and of LightGBM.
        vectors: name -> rows to fit on and rows to score; all with the same labels.
    """
    labels = list(next(iter(vectors.values())).fit.labels)
    probe = _probe.options(num_cpus=_cpus_per_core())  # a task copies its rows, so no more tasks at once than cores
    tasks: dict[tuple[str, Kind, str], ray.ObjectRef] = {}
    for name, data in vectors.items():
        fit, score = data.fit, data.score
        _, user_N = np.unique(fit.users, return_inverse=True)  # tasks share numbers, but would each copy strings
        shared = [ray.put(array) for array in (fit.vectors, user_N, score.vectors)]
        slow_first = sorted(config.kinds)  # LightGBM before linear, so that no core waits long at the end
        for kind, label in itertools.product(slow_first, labels):
            values = (fit.labels[label], score.labels[label])
            tasks[name, kind, label] = probe.remote(kind, label, *shared, *values, config, seed)
    _wait(list(tasks.values()))
    return {
        (name, kind): {label: ray.get(tasks[name, kind, label]) for label in labels}
        for name, kind in itertools.product(vectors, config.kinds)
    }


def _wait(tasks: list[ray.ObjectRef]) -> None:
    """Wait for all tasks, with a line now and then."""
    waiting = tasks
    for done in range(1, len(tasks) + 1):
        _, waiting = ray.wait(waiting)
        if done % PER_LINE == 0 or not waiting:
            print(f"{bar(done / len(tasks))} {done}/{len(tasks)} probes", flush=True)


def _cpus_per_core() -> int:
    """Logical CPUs per core of this machine: more than one on a laptop whose cluster claims more CPUs than it has."""
    node = ray.get_runtime_context().get_node_id()
    (claimed,) = (n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == node)
    return max(1, int(claimed / (os.cpu_count() or 1)))


@ray.remote
def _probe(
    kind: Kind,
    label: str,
    fit_ND: np.ndarray,
    users_N: np.ndarray,
    score_MD: np.ndarray,
    labels_N: np.ndarray,
    labels_M: np.ndarray,
    config: ProbeConfig,
    seed: int,
) -> ProbeResult:
    return fit_and_score(kind, fit_ND, labels_N, users_N, score_MD, labels_M, config, seed, label=label)

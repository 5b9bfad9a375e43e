"""Connecting to Ray: an existing cluster (RAY_ADDRESS, also inside a submitted job), or one started for the job."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import ray
import ray.data
from ray._private import ray_constants
from ray.data.exceptions import ExecutionTimeoutError

from ray_ggsm.config import NotNow
from ray_ggsm.experiment import Experiment, RayConfig
from ray_ggsm.on_ray.cluster.environment import forget, runtime_environment
from ray_ggsm.on_ray.cluster.head import watched_head
from ray_ggsm.on_ray.cluster.nodes import STARTED_BY_JOB
from ray_ggsm.on_ray.cluster.places import check_place
from ray_ggsm.on_ray.cluster.resources import TASK, kept_room, largest, require

STARTS = 3
"""Attempts to start Ray on this machine."""


@contextmanager
def connected(experiment: Experiment) -> Iterator[None]:
    """A connection to Ray for a job, as `started` with the experiment's resources.

    Raises:
        InputError: `output` is no place that all nodes share.
    """
    with started(experiment.ray):
        check_place("output", experiment.output)
        yield


@contextmanager
def started(config: RayConfig) -> Iterator[None]:
    """A connection to Ray; a cluster that is started for it ends with it. Inside another connection it does nothing.

    Raises:
        NotNow: the cluster has no node for tasks, or has lost them, and got none in time; or its tasks have come to a
            halt.
    """
    if ray.is_initialized():
        with _ray_data(config):
            yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # a relative path in the config means the same in a training worker as everywhere else
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    watched: AbstractContextManager[None] = nullcontext()
    on_terminate = signal.getsignal(signal.SIGTERM)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env=runtime_environment(config))
        watched = watched_head(ray.get_runtime_context().gcs_address)
    else:
        start_here(config.local_cpus, int(config.local_object_store_gb * 1e9))
    if on_terminate is not signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # Ray has set one of its own
    try:
        require(TASK, config)
        with watched, kept_room(TASK, config), _ray_data(config):
            yield
    finally:
        forget()
        ray.shutdown()


def start_here(cpus: int | None, object_store_bytes: int) -> None:
    """Start Ray on this machine, where nobody from outside reaches it.

    Ray gives its processes 30 s to start, which is too little on a loaded machine.
    """
    with _loopback():
        _start(cpus, object_store_bytes)


@contextmanager
def _loopback() -> Iterator[None]:
    """A block in which Ray takes 127.0.0.1 for this machine's address, as it does on macOS and Windows: all its servers
    listen there alone. An address that is given to it, it replaces by one that others reach."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _start(cpus: int | None, object_store_bytes: int) -> None:
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                labels=STARTED_BY_JOB,
                object_store_memory=object_store_bytes,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            return
        except Exception as error:  # Ray raises no other class
            if "timed out during startup" not in str(error) or attempt == STARTS:
                raise
            print(f"Ray did not start in time; attempt {attempt + 1} of {STARTS}", flush=True)
            ray.shutdown()


@contextmanager
def _ray_data(config: RayConfig) -> Iterator[None]:
    """Keep Ray Data from copying every plan and error to the terminal, and from waiting for ever; the job itself says
    what went wrong."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings(
        "ignore", "`ray_remote_args` is deprecated"
    )  # max_restarts has no other way to Ray Data yet
    context = ray.data.DataContext.get_current()
    context.enable_operator_progress_bars = False
    context.raise_original_map_exception = True  # an InputError stays one
    context.execution_no_progress_timeout_s = 60 * config.stalled_after_minutes
    try:
        yield
    except ExecutionTimeoutError as error:
        raise NotNow(
            f"nothing got on within {config.stalled_after_minutes:g} minutes (ray.stalled_after_minutes); of the "
            f"cluster, {largest()}; start again when it is well, or give slow tasks more time"
        ) from error

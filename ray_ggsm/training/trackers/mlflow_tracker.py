"""A run in MLflow, by its client: nothing is sent but what stands here (`mlflow.start_run` adds the system's user)."""

import re
import time
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.trackers.config import MlflowConfig
from ray_ggsm.training.trackers.tracker import TrackedRun

TAG = "ray_ggsm.run"
"""Tag with the run's name, by which it is found again."""
METRICS, PARAMS = 1000, 100
"""Largest numbers that MLflow takes at once."""


class MlflowTracker:
    """One run of an experiment."""

    def __init__(self, config: MlflowConfig, run: TrackedRun) -> None:
        """Find the run, or make it."""
        self._client = MlflowClient(tracking_uri=config.uri)
        number = self._experiment(config.experiment)
        found = self._client.search_runs([number], f"tags.`{TAG}` = '{run.name}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(number, tags={TAG: run.name}, run_name=run.name).info.run_id
        params = [Param(_key(name), value) for name, value in run.settings.items()]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(self._run, params=params[start : start + PARAMS])

    def _experiment(self, name: str) -> str:
        """The experiment's number; another run may make it at the same moment."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log(self, steps: Sequence[Metrics]) -> None:
        """As in `Tracker`."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(_key(name), value, now, int(step["step"]))
            for step in steps
            for name, value in step.items()
            if name != "step"
        ]
        for start in range(0, len(metrics), METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + METRICS])

    def end(self, done: bool) -> None:
        """As in `Tracker`."""
        self._client.set_terminated(self._run, "FINISHED" if done else "FAILED")


def _key(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-./ :]", "_", name)

"""A run in Weights & Biases, with what the library collects by itself (code, git, machine, packages, console) off."""

from collections.abc import Sequence

import wandb

from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.trackers.config import WandbConfig
from ray_ggsm.training.trackers.tracker import TrackedRun


class WandbTracker:
    """One run of a project."""

    def __init__(self, config: WandbConfig, run: TrackedRun) -> None:
        """Begin the run, or go on with it."""
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            id=run.name,
            name=run.name,
            resume="allow",
            mode=config.mode,
            dir=config.directory,
            config=dict(run.settings),
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")  # steps that are repeated after an interruption are taken

    def log(self, steps: Sequence[Metrics]) -> None:
        """As in `Tracker`."""
        for step in steps:
            self._run.log(step)

    def end(self, done: bool) -> None:
        """As in `Tracker`."""
        self._run.finish(exit_code=0 if done else 1)

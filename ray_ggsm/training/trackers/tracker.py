"""Sends a run's metrics to trackers, from threads of their own: training neither waits for them nor fails with them.

A tracker that raises is told of once and gets nothing more. What it lacks is counted, for the run's summary.
"""

import json
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ray_ggsm import storage
from ray_ggsm.config import digest
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.trackers.config import TrackerConfig

WAITING = 100_000
"""Steps that may wait for a slow tracker; further ones are left out, and counted."""
AT_ONCE = 500
"""Largest number of steps that are sent together."""

LONGEST = 500
"""Characters of a setting."""


@dataclass(frozen=True)
class TrackedRun:
    """What trackers are told of a run beside its metrics. It has no rows, no users and no environment."""

    name: str
    """Name of its stage; a run that goes on after an interruption has the same."""
    settings: Mapping[str, str]
    """Name -> value."""


def settings_of(values: Mapping[str, object], above: str = "") -> dict[str, str]:
    """Nested settings as names with dots (`training.optimizer.weight_decay`) -> values; lists are one value.

    Of a value that is longer than trackers take, its digest stands there.
    """
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= settings_of(value, f"{above}{name}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            found[f"{above}{name}"] = text if len(text) <= LONGEST else f"digest {digest(text)}"
    return found


class Tracker(Protocol):
    """A run in a register; it is made when the run begins, or goes on."""

    def log(self, steps: Sequence[Metrics]) -> None:
        """Add the metrics of some steps, each with its `step`."""

    def end(self, done: bool) -> None:
        """The run is over; `done`: it came to its end."""


Maker = Callable[[TrackerConfig, TrackedRun], Tracker]


def make(config: TrackerConfig, run: TrackedRun) -> Tracker:
    """The tracker that a config asks for, with the run in it; it may raise whatever its library raises."""
    if config.kind == "mlflow":
        from ray_ggsm.training.trackers.mlflow_tracker import MlflowTracker

        return MlflowTracker(config, run)
    from ray_ggsm.training.trackers.wandb_tracker import WandbTracker

    return WandbTracker(config, run)


class Trackers:
    """All trackers of a run."""

    def __init__(
        self, configs: Sequence[TrackerConfig], run: TrackedRun, warn: Callable[[str], object], maker: Maker = make
    ) -> None:
        """Begin with each; `warn` takes a sentence about one that fails."""
        self._feeds = [_Feed(config, run, warn, maker) for config in configs]

    def log(self, metrics: Metrics) -> None:
        """Hand over the metrics of a step."""
        for feed in self._feeds:
            feed.put(metrics)

    def close(self, done: bool) -> dict[str, str]:
        """End all; returns a sentence for each tracker (by its kind) that lacks something."""
        for feed in self._feeds:
            feed.finish(done)
        return {feed.config.kind: lacks for feed in self._feeds if (lacks := feed.joined())}


@dataclass
class _Feed:
    """One tracker, its thread, and the steps that wait for it."""

    config: TrackerConfig
    run: TrackedRun
    warn: Callable[[str], object]
    maker: Maker
    problem: str | None = None
    """Why it gets nothing more."""
    given: int = 0
    """Steps that were handed over."""
    sent: int = 0
    """Steps that it has taken."""
    waiting: queue.Queue[Metrics | None] = field(default_factory=lambda: queue.Queue(WAITING))
    """Steps; None: there are no more."""
    done: bool = False
    ending: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._work, name=f"tracker-{self.config.kind}", daemon=True)
        self.thread.start()

    def put(self, metrics: Metrics) -> None:
        self.given += 1
        if self.problem is None and not self.waiting.full():
            self.waiting.put(dict(metrics))  # only the loop's thread puts

    def finish(self, done: bool) -> None:
        self.done = done
        self.ending.set()
        if not self.waiting.full():
            self.waiting.put(None)  # it may sleep

    def joined(self) -> str | None:
        self.thread.join(self.config.closing_seconds)
        if self.thread.is_alive() and self.problem is None:
            self.problem = f"did not answer within {self.config.closing_seconds:.0f} s"
        if self.problem is None and self.sent < self.given:
            self.problem = "was too slow"
        return None if self.problem is None else f"{self.problem}; it lacks {self.given - self.sent:,} steps"

    def _work(self) -> None:
        try:
            tracker = self.maker(self.config, self.run)
            while steps := self._next():
                tracker.log(steps)
                self.sent += len(steps)
            tracker.end(self.done)
        except Exception as error:  # whatever its library raises
            text = storage.without_credentials(" ".join(str(error).split()))[:200]
            self.problem = f"failed ({type(error).__name__}: {text})"
            self.warn(f"train: the tracker {self.config.kind} {self.problem}; training goes on without it")

    def _next(self) -> list[Metrics]:
        """The steps that wait, at least one; none after the last."""
        steps: list[Metrics] = []
        while len(steps) < AT_ONCE:
            if (steps or self.ending.is_set()) and self.waiting.empty():
                break
            entry = self.waiting.get()
            if entry is not None:
                steps.append(entry)
        return steps

"""Settings of the study job: which variants are run, and how they are compared."""

import json
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from ray_ggsm.config import Config, Location, Runtime, load
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.probing.scores import ScoredRows

Baseline = Literal["hand-crafted", "event mean"]


class StudyConfig(Config):
    """Which variants are run, and how they are compared."""

    name: Runtime[str]
    """Name for people."""
    experiment: str
    """Config file of the experiment that all variants share."""
    output: Runtime[Location]
    """Directory of all stages and of the comparison, local or s3://."""
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Settings of all variants: key.path -> value."""
    variants: dict[str, dict[str, JsonValue]] = Field(min_length=1)
    """Settings of each variant: name -> key.path -> value."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0, 1, 2), min_length=1)
    """Seeds; every variant runs once with each."""
    reference: str
    """Variant that the others are compared with."""
    baselines: tuple[Baseline, ...] = ("hand-crafted", "event mean")
    """Vectors without training: the tabular features; the mean of the event vectors of a user's history."""
    joined: tuple[str, ...] = ()
    """Variants that are also scored together with the hand-crafted features, as `<name> + hand-crafted`."""
    questions: tuple[tuple[str, str], ...] = ()
    """Pairs (first, second) of names in the results, fixed before the first result. Their p values are corrected for
    these pairs alone, which finds smaller differences than the matrix of all pairs."""
    resolution: Runtime[float | None] = Field(None, gt=0)
    """Half width that the intervals of the questions should have; the page says what is missing."""
    probe: Kind = "linear"
    """Kind of probe that scores."""
    scored: ScoredRows = "score"
    """Which rows are scored. fit: for choices (tuning) that must not look at the test rows."""
    attention: tuple[str, ...] = ()
    """Variants whose attention the page shows, before and after training with the first seed."""
    parallel: Runtime[int] = Field(1, ge=1)
    """Number of runs at a time. Each needs the cores or GPUs of its own training and embedding workers; runs that the
    cluster has no room for wait."""
    resamples: int = Field(2000, ge=100)
    """Number of resamples of the test users."""

    def variant(self, name: str, seed: int) -> Experiment:
        """The experiment of one variant and seed.

        Raises:
            InputError: a setting is wrong, or the experiment's file.
        """
        changes = {**self.settings, **self.variants[name], "seed": seed, "output": self.output}
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        origins = [f"variants.{name}" if key in self.variants[name] else "settings" for key in changes]
        return load(Experiment, self.experiment, overrides, origins)

    @property
    def result_names(self) -> list[str]:
        """Names of all vectors that are compared."""
        return [*self.variants, *(joined_name(name) for name in self.joined), *self.baselines]


def joined_name(variant: str) -> str:
    """Name of a variant's vectors joined with the hand-crafted features."""
    return f"{variant} + hand-crafted"

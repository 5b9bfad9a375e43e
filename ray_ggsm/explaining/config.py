"""Settings of explanations."""

from typing import Literal

from pydantic import Field

from ray_ggsm.config import Config


class GradientsConfig(Config):
    """Integrated gradients (Sundararajan et al., 1703.01365) on the vectors that events enter the backbone as."""

    steps: int = Field(16, ge=2)
    """Points of the Gauss-Legendre rule between baseline and row."""
    baseline: Literal["zero", "mean"] = "zero"
    """What every event becomes at the start of the path: nothing (zeros), or the mean of the row's events, from which
    effects tell how events differ from one another. docs/benchmarks.md has what both are worth."""


class DeletionConfig(Config):
    """The deletion test: does taking away the explained events move the score more than taking away any?"""

    events: int = Field(5, ge=1)
    """Events that are taken away together; rows must have more."""
    draws: int = Field(5, ge=1)
    """Random choices of so many events per row, whose moves are averaged."""

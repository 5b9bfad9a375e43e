"""Settings of the probes."""

from typing import Literal

from pydantic import Field, PositiveFloat

from ray_ggsm.config import Config, Runtime

Kind = Literal["linear", "lightgbm"]


class LinearConfig(Config):
    """Logistic regression on standardised vectors."""

    strengths: tuple[PositiveFloat, ...] = Field((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0), min_length=1)
    """Inverse L2 penalties C to choose from; smaller is simpler."""
    max_iterations: int = Field(300, ge=1)
    """Most L-BFGS iterations of one fit."""
    tolerance: float = Field(1e-4, gt=0)
    """Largest gradient component at which L-BFGS stops."""


class LightGBMConfig(Config):
    """Gradient-boosted trees; the number of rounds is the mean of the folds' best."""

    max_rounds: int = Field(400, ge=1)
    """Most boosting rounds."""
    patience: int = Field(20, ge=1)
    """Rounds without a lower held-out log-loss after which a fold stops."""
    learning_rate: float = Field(0.05, gt=0)
    """Weight of each tree."""
    leaves: int = Field(7, ge=2)
    """Leaves per tree."""
    min_rows_per_leaf: int = Field(20, ge=1)
    """Fewest training rows in a leaf."""
    feature_fraction: float = Field(0.2, gt=0, le=1)
    """Share of the vector's dimensions each tree may use."""
    bins: int = Field(63, ge=2)
    """Histogram bins per dimension."""


class ProbeConfig(Config):
    """Which probes are fitted, and how."""

    kinds: tuple[Kind, ...] = Field(("linear", "lightgbm"), min_length=1)
    """Probes to fit for every label."""
    folds: int = Field(5, ge=2)
    """Cross-validation folds over the probe rows, grouped by user."""
    linear: LinearConfig = LinearConfig()
    """Settings of the linear probe."""
    lightgbm: LightGBMConfig = LightGBMConfig()
    """Settings of the LightGBM probe."""
    allow_missing: Runtime[bool] = False
    """Leave out, and count, labelled rows without a vector; false, and always in a study: they are an error."""
    allow_same_period: Runtime[bool] = False
    """Accept splits whose futures overlap (of different users); false: they are an error."""

"""What a run of the synthesize job records: guide.json and questions.json."""

from typing import Self

import numpy as np
from pydantic import Field

from ray_ggsm.config import Record
from ray_ggsm.synthesis.quality import PartCounts


class Difficulty(Record):
    """S_d of some pairs."""

    pairs: int
    lower: float
    """Lower quartile."""
    median: float
    upper: float
    """Upper quartile."""
    threshold: float
    """T_filter."""
    hard: int
    """Pairs at or above it."""

    @classmethod
    def of(cls, difficulty_N: np.ndarray, threshold: float) -> Self:
        """Of measured pairs."""
        lower, median, upper = (float(np.quantile(difficulty_N, share)) for share in (0.25, 0.5, 0.75))
        hard = int((difficulty_N >= threshold).sum())
        return cls(pairs=len(difficulty_N), lower=lower, median=median, upper=upper, threshold=threshold, hard=hard)


class GuideResult(Record):
    """What steps 1 to 3 gave."""

    pool: tuple[str, ...]
    rules: tuple[str, ...]
    difficulty: Difficulty | None
    """Of the calibration set; None where it is not measured."""
    counts: PartCounts


class Questions(Record):
    """A finished run, with its lineage."""

    rows: str
    """Directory of user rows with `query` and `answer`."""
    digest: str
    """Identifies settings, prompts, model and data."""
    pairs: int
    author: str
    """The model's name, or "counting rules"."""
    prompts: dict[str, str]
    """Prompt -> digest of its text."""
    seed: int
    counts: PartCounts
    rules: tuple[str, ...] = ()
    difficulty: Difficulty | None = None
    """Of the calibration set, before rules."""
    difficulty_after: Difficulty | None = None
    """Of the final pairs of the same rows."""
    seconds: float = Field(0.0)

"""What a run of the synthesize job records: guide.json and questions.json."""

from typing import Self

import numpy as np
from pydantic import Field

from ray_ggsm.config import Record, digest
from ray_ggsm.data.config import DataConfig
from ray_ggsm.synthesis.quality import PartCounts
from ray_ggsm.training.questions import Asked


def asked_of(data: DataConfig) -> Asked:
    """Whom questions about the training rows of a config are about."""
    train = data.splits[data.train_split]
    newest = max(data.snapshots.dates[n] for n in train.cutoffs)
    return Asked(users=digest(data.users), who=train.users, newest=newest, future_days=data.snapshots.future_days)


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
    cut: float | None = None
    """Share of the pairs of which the embedding model reads the beginning only: of the user, or of the answer."""

    @classmethod
    def of(cls, difficulty_N: np.ndarray, threshold: float, cut: float | None = None) -> Self:
        """Of measured pairs."""
        lower, median, upper = (float(np.quantile(difficulty_N, share)) for share in (0.25, 0.5, 0.75))
        hard = int((difficulty_N >= threshold).sum())
        return cls(
            pairs=len(difficulty_N), lower=lower, median=median, upper=upper, threshold=threshold, hard=hard, cut=cut
        )


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
    asked: Asked
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
    tokens: int | None = None
    """Tokens of all runs in this output up to now, as the budget counts them: with what replies have cost that this run
    found."""
    seconds: float = Field(0.0)

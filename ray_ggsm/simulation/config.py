"""What a simulated population is like: how many people, for how long, and what they do."""

from datetime import date
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from ray_ggsm.config import Config, Runtime

USERS, READY = "users", "ready"
"""Directories beside those of the tables: static facts, and which days are complete."""


def _table(name: str) -> str:
    if name in (USERS, READY):
        raise ValueError(f"a table cannot be called '{name}': the output has a directory of this name; use another one")
    return name


class SimulatedTable(Config):
    """One kind of behaviour, which becomes one event table."""

    events_per_day: float = Field(gt=0, le=100)
    """Mean over users and days."""
    contents: int = Field(ge=1, le=10_000_000)
    """Number of different contents in each group of contents; the k-th most frequent has a share in proportion to 1 / k
    (Zipf)."""
    mean_amount: float | None = Field(None, gt=0)
    """Mean of the events' amounts; null: they have none."""


TableName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$"), AfterValidator(_table)]
TABLES = {
    "bill": SimulatedTable(events_per_day=0.8, contents=5_000, mean_amount=30.0),
    "mini_program": SimulatedTable(events_per_day=1.5, contents=2_000),
    "page_view": SimulatedTable(events_per_day=3.0, contents=500),
    "app": SimulatedTable(events_per_day=0.1, contents=1_000),
    "search": SimulatedTable(events_per_day=0.5, contents=20_000),
}
"""The event sequences of eq. 9; the sixth modality, tabular facts, is the table `users`."""


class SimulationConfig(Config):
    """A population and its days. With equal settings, the events of a user on a day depend on `seed` and the user only,
    not on how many users or days there are."""

    users: int = Field(ge=1, le=1_000_000_000)
    """Number of people, u0000000000 and so on."""
    first_day: date
    """First day with events (UTC)."""
    days: Runtime[int] = Field(ge=1, le=3660)
    """Number of days."""
    seed: int = Field(0, ge=0)
    """Seed of traits and events."""
    groups: int = Field(12, ge=2, le=1000)
    """Number of groups of contents; each user prefers two of them."""
    spread: float = Field(1.0, ge=0, le=3)
    """Standard deviation of the logarithm of how active users are."""
    tables: dict[TableName, SimulatedTable] = Field(TABLES, min_length=1)
    """By name."""
    users_per_file: int = Field(250_000, ge=1)
    """Users whose events of a day lie in one file."""
    horizon_days: Runtime[int] = Field(30, ge=1)
    """Days that the labels look ahead whose best AUC is told."""

    @model_validator(mode="after")
    def _days_exist(self) -> Self:
        if (date.max - self.first_day).days < self.days + self.horizon_days:
            raise ValueError(f"the days and their horizon end after {date.max}; use an earlier first_day or fewer days")
        return self

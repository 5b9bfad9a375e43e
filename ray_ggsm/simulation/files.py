"""Writes a simulated population day by day, as a producer of event logs would.

Below one location:

    <table>/day=2026-01-01/part-00000.parquet    the events of some users
    users/part-00000.parquet                     static facts
    ready/2026-01-01.json                        written last: the day's files, and how many rows they have
"""

from datetime import date, timedelta

import numpy as np

from ray_ggsm import storage
from ray_ggsm.simulation.config import READY, USERS, SimulationConfig
from ray_ggsm.simulation.population import Traits, events, facts


def days(config: SimulationConfig) -> list[date]:
    """All days, in their order."""
    return [config.first_day + timedelta(days=k) for k in range(config.days)]


def parts(config: SimulationConfig) -> int:
    """Number of files of a table's day."""
    return -(-config.users // config.users_per_file)


def part_traits(config: SimulationConfig, part: int) -> Traits:
    """The users of a part."""
    first = part * config.users_per_file
    return Traits.of(config, np.arange(first, min(first + config.users_per_file, config.users)))


def write_part(config: SimulationConfig, location: str, day: date, part: int) -> dict[str, int]:
    """Write the events of a part of the users on a day; returns the rows of each file, by its place below
    `location`.

    Writing it again gives the same files.
    """
    traits, rows = part_traits(config, part), {}
    for table in config.tables:
        file = f"{table}/day={day.isoformat()}/part-{part:05d}.parquet"
        made = events(config, traits, table, day)
        storage.write_parquet(storage.join(location, file), made, compression="zstd")
        rows[file] = len(made)
    return rows


def write_facts(config: SimulationConfig, location: str, part: int) -> None:
    """Write the static facts of a part of the users."""
    file = storage.join(location, USERS, f"part-{part:05d}.parquet")
    storage.write_parquet(file, facts(config, part_traits(config, part)), compression="zstd")


def ready_file(location: str, day: date) -> str:
    """The file that says that a day is complete."""
    return storage.join(location, READY, f"{day.isoformat()}.json")


def seal(location: str, day: date, rows: dict[str, int]) -> None:
    """Say that a day is complete."""
    storage.write_json(ready_file(location, day), {"day": day.isoformat(), "rows": dict(sorted(rows.items()))})

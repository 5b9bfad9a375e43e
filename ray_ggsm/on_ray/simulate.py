"""The simulate job: a made-up population with known traits, written day by day, for load tests and for trying things.

One Ray task per day and part of the users; a finished day is not written again.
"""

from collections import deque
from datetime import date, timedelta

import ray
from pydantic import Field

from ray_ggsm import storage
from ray_ggsm.config import Config, InputError, Location, Runtime, identity
from ray_ggsm.experiment import RayConfig
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.cluster.places import check_place
from ray_ggsm.simulation import files
from ray_ggsm.simulation.config import USERS, SimulationConfig
from ray_ggsm.simulation.labels import best_aucs

AHEAD = 2
"""Days whose tasks wait behind those of the day that is sealed next."""


class SimulateConfig(Config):
    """Who is simulated, and where the events go."""

    output: Runtime[Location]
    """Directory of the event files, local or s3://."""
    population: SimulationConfig
    """The people, and what they do."""
    ray: Runtime[RayConfig] = Field(RayConfig())
    """Resources."""


def preview(config: SimulateConfig) -> str:
    """What the job would write."""
    p = config.population
    expected = p.users * p.days * sum(table.events_per_day for table in p.tables.values())
    n_files = p.days * files.parts(p) * len(p.tables)
    return f"some {expected:,.0f} events of {p.users:,} users on {p.days} days, in {n_files:,} files; {config.output}"


def simulate(config: SimulateConfig) -> None:
    """Write what is missing, and print the best AUCs that any model of it can have."""
    with started(config.ray):
        check_place("output", config.output)
        output = storage.absolute(config.output)
        _same_population(config.population, output)
        _write_facts(config.population, output)
        _write_days(config.population, output)
    first = config.population.first_day + timedelta(days=config.population.days)
    print(f"best AUC given the traits, {config.population.horizon_days} days from {first} on:")
    for label, auc in best_aucs(config.population, first).items():
        print(f"  {label:28} {'none: all users are as likely' if auc is None else f'{auc:.4f}'}")


def _same_population(population: SimulationConfig, output: str) -> None:
    """Refuse to mix two populations; more days of the same one are welcome."""
    file = storage.join(output, "population.json")
    mine = identity(population)
    if storage.exists(file):
        if storage.read_json(file) != mine:
            raise InputError(f"output: {output} holds another population ({file}); use another place, or remove it")
        return
    storage.write_json(file, mine)


def _write_facts(population: SimulationConfig, output: str) -> None:
    done = set(storage.list_files(storage.join(output, USERS), ".parquet"))
    if len(done) == files.parts(population):
        return
    write = ray.remote(num_cpus=1)(files.write_facts)
    ray.get([write.remote(population, output, part) for part in range(files.parts(population))])


def _write_days(population: SimulationConfig, output: str) -> None:
    write = ray.remote(num_cpus=1)(files.write_part)
    running: deque[tuple[date, list[ray.ObjectRef]]] = deque()
    for day in files.days(population):
        if not storage.exists(files.ready_file(output, day)):
            tasks = [write.remote(population, output, day, part) for part in range(files.parts(population))]
            running.append((day, tasks))
        if len(running) > AHEAD:
            _seal(output, *running.popleft())
    while running:
        _seal(output, *running.popleft())


def _seal(output: str, day: date, tasks: list[ray.ObjectRef]) -> None:
    """Wait for the files of a day, and say that it is complete."""
    rows = {file: n for part in ray.get(tasks) for file, n in part.items()}
    files.seal(output, day, rows)
    print(f"simulate: {day}: {sum(rows.values()):,} events", flush=True)

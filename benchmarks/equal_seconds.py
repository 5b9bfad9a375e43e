"""How many steps each variant of a study can train in the time that one of them takes: its budget in seconds.

    python benchmarks/equal_seconds.py --config configs/journey/rivals.yaml --like "GG-SM" [--set ...]

Trains a few steps of each and prints seconds per step, the first half left out. It wants a quiet machine.
"""

import argparse
import json

import ray

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.study_config import StudyConfig
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline

TRIAL_STEPS = 8
"""Steps of the run that shows how long one takes."""


def seconds_per_step(config: str, settings: list[str]) -> float:
    """Mean seconds of a training step of a config with changes."""
    place = Pipeline.of(load(Experiment, config, [*settings, f"training.steps={TRIAL_STEPS}"]))
    with connected(place.experiment):
        prepare(place)
        train(place)
    ray.shutdown()
    later = [entry["seconds"] for entry in place.train.log()[TRIAL_STEPS // 2 :]]
    return sum(later) / len(later)


def main() -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="of a study")
    parser.add_argument("--like", required=True, help="variant whose training time is the budget")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    options = parser.parse_args()
    study = load(StudyConfig, options.config, options.set)
    budget = None
    for name in sorted(study.variants, key=lambda name: name != options.like):
        experiment, changes = study.variant(name, study.seeds[0]), {**study.settings, **study.variants[name]}
        if not experiment.model.trains:
            continue
        settings = [f"{key}={json.dumps(value)}" for key, value in {**changes, "output": study.output}.items()]
        seconds = seconds_per_step(study.experiment, settings)
        budget = budget or seconds * experiment.training.total_steps
        print(
            f"{name} | {seconds:.3f} s per step, {max(1, round(budget / seconds))} steps in {budget:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()

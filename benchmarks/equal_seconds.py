"""How many steps each variant of a study can train in the time that one of them takes: its budget in seconds.

    python benchmarks/equal_seconds.py --config configs/journey/rivals.yaml --like "GG-SM" [--set ...]

Trains some steps of each and prints the mean seconds of a step, the first two left out; stages of training and the
warm-up of a mask keep their shares of so short a run. It wants a quiet machine.
"""

import argparse
import json

import ray

from ray_ggsm.config import InputError, load
from ray_ggsm.experiment import Experiment
from ray_ggsm.on_ray.cluster.connection import connected
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.study_config import StudyConfig
from ray_ggsm.on_ray.train import train
from ray_ggsm.stages import Pipeline

TRIAL_STEPS = 20
"""Steps of the run that shows how long one takes."""
FIRST = 2
"""Steps that are left out: they take longer than others."""


def seconds_per_step(config: str, settings: list[str]) -> float:
    """Mean seconds of a training step of a config with changes."""
    place = Pipeline.of(load(Experiment, config, [*settings, "training.epochs=null", f"training.steps={TRIAL_STEPS}"]))
    with connected(place.experiment):
        prepare(place)
        train(place)
    ray.shutdown()
    later = [entry["seconds"] for entry in place.train.log()[FIRST:]]
    if not later:
        raise InputError(f"{config}: {' '.join(settings)} trains nothing, so a step of it takes no time")
    return sum(later) / len(later)


def main() -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="of a study")
    parser.add_argument("--like", required=True, help="variant whose training time is the budget")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE")
    options = parser.parse_args()
    study = load(StudyConfig, options.config, options.set)
    trained = [name for name in study.variants if study.variant(name, study.seeds[0]).model.trains]
    if options.like not in trained:
        raise SystemExit(f"--like {options.like}: the study trains {', '.join(trained)}")
    budget = None
    for name in sorted(trained, key=lambda name: name != options.like):
        experiment, changes = study.variant(name, study.seeds[0]), {**study.settings, **study.variants[name]}
        settings = [f"{key}={json.dumps(value)}" for key, value in {**changes, "output": study.output}.items()]
        seconds = seconds_per_step(study.experiment, settings)
        budget = budget or seconds * experiment.training.total_steps
        print(
            f"{name} | {seconds:.3f} s per step, {max(1, round(budget / seconds))} steps in {budget:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()

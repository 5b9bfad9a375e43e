"""Is the language model needed? The same config with other backbones, all with as many seconds of training, over seeds.

    python benchmarks/backbones.py --config configs/journey/quickstart.yaml [--seconds 200] [--set ...]

Per arm, a run of a few steps shows how long a step takes here; `backbones.json` in the config's output keeps the steps
that fit into the seconds, so that an interrupted measurement goes on; these runs come first and want a quiet machine.
Scores are those of `tune.py`: linear probe, mean AUC over the labels, held-out folds of the probe rows.
Learning rates are usual ones and were not tuned.
"""

import argparse
import json

from equal_seconds import TRIAL_STEPS, seconds_per_step
from features_network import features_alone
from tune import add_options, tuned

from ray_ggsm import storage
from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment

PRETRAINED = ["model.backbone.weights=pretrained", "model.backbone.width=null"]
ARMS = {
    "pretrained layers with LoRA": [
        *PRETRAINED,
        "model.backbone.trained=lora",
        "training.optimizer.learning_rate=5e-4",
    ],
    "pretrained layers, all trained": [*PRETRAINED, "training.optimizer.learning_rate=2e-4"],
    "the same layers from random weights": ["model.backbone.width=null", "training.optimizer.learning_rate=5e-4"],
    "the config's own": [],
}


def main() -> None:
    """Print one line per arm and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_options(parser)
    parser.add_argument("--seconds", type=float, default=200, help="training time of each run, without its start")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    first = load(Experiment, options.config, [*options.set, "training.epochs=null", f"training.steps={TRIAL_STEPS}"])
    output = storage.absolute(first.output)
    file = storage.join(output, "backbones.json")
    known = json.loads(storage.read_text(file)) if storage.exists(file) else {}
    arms = {
        f"{name}, {options.seconds:.0f} s": [*options.set, "training.epochs=null", *changes]
        for name, changes in ARMS.items()
    }
    for key, settings in arms.items():
        if key not in known:
            known[key] = max(1, round(options.seconds / seconds_per_step(options.config, [*settings, "seed=0"])))
            storage.write_json(file, known)
    for seed in range(options.seeds):
        for key, settings in arms.items():
            run = [*settings, f"seed={seed}", f"training.steps={known[key]}"]
            print(f"{key}, {known[key]} steps, seed {seed} | {tuned(options.config, run, options.score)}", flush=True)
        alone = features_alone(options.config, [*options.set, f"seed={seed}"], options.score)
        print(f"no sequence, seed {seed} | {alone}", flush=True)


if __name__ == "__main__":
    main()

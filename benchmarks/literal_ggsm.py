"""The published warm-up weight on Journey: how far from the constant 0.5 does it ever get?

    python benchmarks/literal_ggsm.py [--steps 10]

Takes warm-up steps of configs/journey/masks/ggsm_literal.yaml and prints, over all slots of all steps that have seen a
gradient, mean, least and greatest weight; and the same for the calibrated recipe, from the same start.
"""

import argparse

import torch
from journey_model import CONFIG, journey_learner

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.mask_log import slot_weights
from ray_ggsm.training.pairs import head
from ray_ggsm.training.workers import ALONE


def main() -> None:
    """Print one line per recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    use_cpu(2)
    quickstart = load(Experiment, CONFIG)
    prepare(Pipeline.of(quickstart))
    size = quickstart.training.batch_size
    rows = head(Pipeline.of(quickstart).prepare.rows("pretrain"), arguments.steps * size)
    for name in ("ggsm_literal", "ggsm"):
        experiment = load(Experiment, f"configs/journey/masks/{name}.yaml")
        learner = journey_learner(experiment, rows, experiment.resolved_mask(), 65_536)
        trainer = Trainer(learner, learner.config, ALONE)
        seen = []
        for step in range(arguments.steps):
            trainer.step(rows.slice(step * size, size))
            _, weight_S = slot_weights(learner.encoder.template, learner.recipe, step + 1)
            seen.append(weight_S[learner.recipe.seen_S])
        w = torch.cat(seen)
        norms = learner.recipe.importance_S[learner.recipe.seen_S]
        print(
            f"{name}: w mean {w.mean():.5f}, least {w.min():.5f}, greatest {w.max():.5f};"
            f" importances {norms.min():.2e} to {norms.max():.2e}",
            flush=True,
        )


if __name__ == "__main__":
    main()

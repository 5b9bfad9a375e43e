"""Does GG-SM's importance tell slots apart, or lengths of rows? On Journey, with the quickstart's decoder.

    python benchmarks/importance.py [--steps 10]

Takes the gradients of 512 pairs under the contrastive loss, before training and after some steps, and finds the
importance by slot from all rows and from the longest 30 % of them, with the rows' scale kept and removed. Prints the
standard deviation over slots of the logarithm of their ratio (0: the lengths do not matter), for slots with 150 tokens
or more: over the ranks of events, and over all slots.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch
from journey_model import journey_learner
from torch import Tensor

from ray_ggsm.config import load
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks import Tokens
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.masks.norms import norms
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.pairs import Pairs, head
from ray_ggsm.training.workers import ALONE

ROWS, LONG, ENOUGH = 512, 0.7, 150
"""Number of rows, quantile of their lengths from which they are long, and tokens of a slot that is compared."""
PAPER = ["training.targets=null", "training.contrast_weight=1.0", "model.fusion=null", "training.steps=200"]
Seen = list[tuple[Tensor, Tokens]]
"""Norms of a micro-batch (B, L, 1), and its tokens."""


def main() -> None:
    """Print a line per step and way of looking at rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    use_cpu(2)
    experiment = load(Experiment, "configs/journey/quickstart.yaml", PAPER)
    place = Pipeline.of(experiment)
    prepare(place)
    rows = place.prepare.rows("pretrain")
    pairs = Pairs(rows, experiment.training.batch_size, 0)
    learner = journey_learner(experiment, head(rows, 16_384), experiment.resolved_mask(), 16_384)
    trainer = Trainer(learner, learner.config, ALONE)
    for step in range(steps + 1):
        if step in (0, steps):
            report(step, gradients(learner, pairs), learner.encoder.template.slot_names)
        trainer.step(pairs.batch(step))


def gradients(learner: Contrastive, pairs: Pairs) -> Seen:
    """What the recipe would observe of ROWS rows, without a step."""
    seen: Seen = []
    observe = learner.recipe.observe

    def take(grad_BLD: Tensor, tokens: Tokens, step: int) -> None:
        seen.append((norms(grad_BLD)[..., None], tokens))

    learner.recipe.observe = take
    for index in range(ROWS // pairs.batch_size):
        learner.gradients(pairs.batch(1000 + index))
    learner.recipe.observe = observe
    return seen


def report(step: int, seen: Seen, names: Sequence[str]) -> None:
    """Print how far importances from all rows and from long ones lie apart."""
    shortest = torch.cat([tokens.length_B() for _, tokens in seen]).double().quantile(LONG).item()
    long = [_longer(*part, shortest) for part in seen]
    slots = torch.cat([tokens.slot_BL[tokens.valid_BL] for _, tokens in long])
    often = slots.bincount(minlength=seen[0][1].n_slots) >= ENOUGH
    ranks = often & torch.tensor(["[" in name for name in names])
    for row_scale in ("kept", "removed"):
        ratio = (_importance(seen, row_scale) / _importance(long, row_scale)).log()
        print(
            f"step {step}, row_scale {row_scale}: {ratio[ranks].std():.3f} over {int(ranks.sum())} ranks, "
            f"{ratio[often].std():.3f} over {int(often.sum())} slots",
            flush=True,
        )


def _longer(norm_BL1: Tensor, tokens: Tokens, shortest: float) -> tuple[Tensor, Tokens]:
    """The rows with at least so many tokens."""
    chosen = tokens.length_B() >= shortest
    parts = {name: getattr(tokens, name)[chosen] for name in ("valid_BL", "slot_BL", "history_BL")}
    return norm_BL1[chosen], replace(tokens, **parts)


def _importance(seen: Seen, row_scale: str) -> Tensor:
    """The importance that a recipe finds in one step, (S,)."""
    recipe = GGSMConfig(recipe="ggsm", total_steps=10, row_scale=row_scale).build()
    for norm_BL1, tokens in seen:
        recipe.observe(norm_BL1, tokens, 0)
    recipe.end_step(lambda sums: sums)
    return recipe.importance_S


if __name__ == "__main__":
    main()

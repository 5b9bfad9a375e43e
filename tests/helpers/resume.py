"""Trainers step by step, and a run that goes on from a checkpoint against one that nothing stopped."""

from collections.abc import Callable
from pathlib import Path

import torch

from ray_ggsm.training.loop import Trainer


def step(trainer: Trainer) -> dict[str, float]:
    """One step on the batch that is due; returns its metrics."""
    return trainer.step(trainer.pairs.batch(trainer.learner.step))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of the weights that training changes."""
    return {name: p.detach().clone() for name, p in trainer.learner.parameters().items()}


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics without those of time."""
    return {key: value for key, value in metrics.items() if key not in ("seconds", "tokens", "utilisation")}


def goes_on_bit_for_bit(make: Callable[[], Trainer], place: Path) -> None:
    """Compares the logs and weights of a run that is restored after two steps, and of one that is not."""
    straight, first, second = make(), make(), make()
    while not straight.done:
        step(straight)
    for _ in range(2):
        step(first)
    (place / "checkpoint").mkdir()
    first.save(str(place / "checkpoint"))
    torch.manual_seed(99)
    second.restore(str(place / "checkpoint"))
    while not second.done:
        step(second)
    assert [comparable(m) for m in second.log] == [comparable(m) for m in straight.log]
    for name, weight in weights(straight).items():
        assert torch.equal(weights(second)[name], weight), name

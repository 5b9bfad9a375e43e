"""Checkpoints that older commits wrote are read: optimiser, log and mask, and another run's are refused by name.

Each directory below `data` has the name of the commit whose `checkpoint.write` made it, after two steps of AdamW on two
parameters. What the learner itself saves is tested by `tests/model/test_saved_formats.py`.
"""

from pathlib import Path

import pytest
import torch
from torch import nn

from ray_ggsm.config import InputError
from ray_ggsm.training import checkpoint
from ray_ggsm.training.checkpoint import Progress

DATA = Path(__file__).parent / "data"
COMMITS = sorted(place.name for place in DATA.iterdir())
IDENTITY = {"model": "77aa", "data snapshot": "88bb"}


class Two:
    """A learner of two parameters."""

    def __init__(self) -> None:
        self.weights = {
            "fusion.weight": nn.Parameter(torch.arange(6.0).reshape(2, 3)),
            "norm": nn.Parameter(torch.ones(2)),
        }

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.weights

    def restore(self, directory: str, step: int, record: dict[str, list[float]]) -> None:
        self.restored = step, record


def steps(learner: Two, optimizer: torch.optim.Optimizer, n: int) -> None:
    for _ in range(n):
        (learner.weights["fusion.weight"].square().sum() + learner.weights["norm"].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", COMMITS)
def test_a_run_goes_on_as_if_it_had_not_stopped(name: str) -> None:
    expected, found = Two(), Two()
    whole = torch.optim.AdamW(expected.weights.values(), lr=0.1)
    steps(expected, whole, 2)
    resumed = torch.optim.AdamW(found.weights.values(), lr=0.1)
    progress = checkpoint.read(str(DATA / name), found, resumed, IDENTITY)  # type: ignore[arg-type]
    assert progress == Progress(2, [{"loss": 3.0}, {"loss": 2.5}], {"1": [0.5, 0.25]})
    assert found.restored == (2, {"1": [0.5, 0.25]})
    with torch.no_grad():
        for key, parameter in found.weights.items():
            parameter.copy_(expected.weights[key])
    for learner, optimizer in ((expected, whole), (found, resumed)):
        steps(learner, optimizer, 1)
    for key, parameter in found.weights.items():
        assert torch.equal(parameter, expected.weights[key]), key


@pytest.mark.parametrize("name", COMMITS)
def test_another_run_is_refused(name: str) -> None:
    learner = Two()
    optimizer = torch.optim.AdamW(learner.weights.values())
    with pytest.raises(InputError, match="because it has another model now"):
        checkpoint.read(str(DATA / name), learner, optimizer, IDENTITY | {"model": "0000"})  # type: ignore[arg-type]

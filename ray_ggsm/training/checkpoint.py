"""Checkpoints of a training run: the encoder's directory with `optimizer.safetensors`, `training.json` and what else
the learner needs (of the language model with heads, `heads.safetensors`) in it.

Data order, dropout and learning rate are functions of the step, so there is no other state. A checkpoint stores the
identity of its run part by part, and a run with other parts cannot go on from it.
"""

import json
import os
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file

from ray_ggsm.config import InputError
from ray_ggsm.training.learner import Learner

Log = list[dict[str, float]]
"""Metrics of each step: name -> value."""
Identity = dict[str, str]
"""Part of a run (model, data snapshot, backbone, ...) -> its digest."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run, beside its weights."""

    step: int
    """Number of optimiser steps done."""
    log: Log
    """Metrics of each step."""
    mask_weight: dict[str, list[float]]
    """The learner's record: of the language model, step, counted from 1 -> weight per slot of its mask."""


def write(
    directory: str, learner: Learner, optimizer: torch.optim.Optimizer, progress: Progress, identity: Identity
) -> None:
    """Write a checkpoint into a local directory."""
    learner.save(directory)
    tensors = {}
    for name, parameter in learner.parameters().items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(tensors, os.path.join(directory, "optimizer.safetensors"))
    with open(os.path.join(directory, "training.json"), "w") as file:
        json.dump({**vars(progress), "identity": identity}, file)


def read(directory: str, learner: Learner, optimizer: torch.optim.Optimizer, identity: Identity) -> Progress:
    """Restore learner and optimiser in place; returns the run's progress.

    Raises:
        InputError: the checkpoint comes from a run with other parts.
    """
    with open(os.path.join(directory, "training.json")) as file:
        state = json.load(file)
    stored: Identity = state.pop("identity")
    changed = sorted(part for part in identity.keys() | stored.keys() if identity.get(part) != stored.get(part))
    if changed:
        raise InputError(
            f"{directory}: this run cannot go on from its checkpoint, because it has another"
            f" {', another '.join(changed)} now; restore the old one, or start again with another `output`"
        )
    progress = Progress(**state)
    learner.restore(directory, progress.step, progress.mask_weight)
    tensors = load_file(os.path.join(directory, "optimizer.safetensors"))
    parameters = learner.parameters()
    for entry, value in tensors.items():
        key, _, name = entry.partition("/")
        optimizer.state[parameters[name]][key] = value if key == "step" else value.to(parameters[name].device)
    return progress

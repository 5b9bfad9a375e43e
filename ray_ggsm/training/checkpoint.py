"""Checkpoints of a training run: the encoder's directory with `optimizer.safetensors`, `training.json` and, with
targets, `heads.safetensors` in it.

Data order, dropout and learning rate are functions of the step, so there is no other state. A checkpoint stores the
identity of its run part by part, and a run with other parts cannot go on from it.
"""

import json
import os
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ray_ggsm.config import InputError
from ray_ggsm.model import saved
from ray_ggsm.model.saved import EncoderBundle

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
    """Step, counted from 1 -> weight per slot (`ray_ggsm.training.mask_log`)."""


@dataclass(frozen=True)
class Trained:
    """What a training run changes."""

    bundle: EncoderBundle
    heads: nn.Module | None
    """Heads of the targets, which are no part of the encoder."""
    optimizer: torch.optim.Optimizer

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that training changes, by name."""
        return trained_parameters(self.bundle, self.heads)


def trained_parameters(bundle: EncoderBundle, heads: nn.Module | None) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    of_heads = heads.named_parameters() if heads is not None else ()
    return bundle.encoder.trainable() | {f"heads.{name}": p for name, p in of_heads}


def write(directory: str, trained: Trained, progress: Progress, identity: Identity) -> None:
    """Write a checkpoint into a local directory."""
    saved.save(trained.bundle, directory)
    if trained.heads is not None:
        heads = {name: tensor.detach().cpu() for name, tensor in trained.heads.state_dict().items()}
        save_file(heads, os.path.join(directory, "heads.safetensors"))
    tensors = {}
    for name, parameter in trained.parameters().items():
        for key, value in trained.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(tensors, os.path.join(directory, "optimizer.safetensors"))
    with open(os.path.join(directory, "training.json"), "w") as file:
        json.dump({**vars(progress), "identity": identity}, file)


def read(directory: str, trained: Trained, identity: Identity) -> Progress:
    """Restore encoder, recipe, heads and optimiser in place; returns the run's progress.

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
    saved.restore(trained.bundle.encoder, trained.bundle.recipe, directory, directory)
    if trained.heads is not None:
        trained.heads.load_state_dict(load_file(os.path.join(directory, "heads.safetensors")))
    tensors = load_file(os.path.join(directory, "optimizer.safetensors"))
    parameters = trained.parameters()
    for entry, value in tensors.items():
        key, _, name = entry.partition("/")
        trained.optimizer.state[parameters[name]][key] = value if key == "step" else value.to(parameters[name].device)
    return Progress(**state)

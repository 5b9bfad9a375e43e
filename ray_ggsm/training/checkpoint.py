"""What a training run needs to go on: the encoder's directory, `optimizer.safetensors` and `training.json`.

Data order, dropout and learning rate are functions of the step, so there is no other state to keep.
"""

import json
import os

import torch
from safetensors.torch import load_file, save_file

from ray_ggsm.model import saved
from ray_ggsm.model.saved import Trained

Log = list[dict[str, float]]
MaskWeight = dict[str, list[float]]


def write(
    directory: str, trained: Trained, optimizer: torch.optim.Optimizer, log: Log, mask_weight: MaskWeight
) -> None:
    """Write a checkpoint into a local directory."""
    saved.save(trained, directory)
    tensors = {}
    for name, parameter in trained.encoder.trainable().items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(tensors, os.path.join(directory, "optimizer.safetensors"))
    with open(os.path.join(directory, "training.json"), "w") as file:
        json.dump({"step": trained.step, "log": log, "mask_weight": mask_weight}, file)


def read(directory: str, trained: Trained, optimizer: torch.optim.Optimizer) -> tuple[int, Log, MaskWeight]:
    """Restore encoder, recipe and optimiser in place; returns the steps done, their log, and the weights per slot."""
    saved.restore(trained.encoder, trained.recipe, directory, directory)
    tensors = load_file(os.path.join(directory, "optimizer.safetensors"))
    parameters = trained.encoder.trainable()
    for entry, value in tensors.items():
        key, _, name = entry.partition("/")
        optimizer.state[parameters[name]][key] = value if key == "step" else value.to(parameters[name].device)
    with open(os.path.join(directory, "training.json")) as file:
        state = json.load(file)
    return int(state["step"]), state["log"], state["mask_weight"]

"""Pretrained models that travel with an encoder, so that a fresh machine needs no model hub for it.

    pretrained/backbone/        config.json, model.safetensors: the weights that training began with
    pretrained/event_encoder/   the same of the event encoder, and its tokenizer
    pretrained/packed.json      written last; without it nothing is packed

encoder.json stays as it is, and so does the encoder's digest: it has the digests of both models, which loading
compares, wherever the weights come from.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.model.config import ModelConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.kinds import TextConfig
from ray_ggsm.model.source import load_model, weights_digest, write_model

DIRECTORY, MARK = "pretrained", "packed.json"
Part = Literal["backbone", "event_encoder"]


def is_packed(location: str) -> bool:
    """Whether an encoder's directory has the pretrained models."""
    return storage.exists(storage.join(location, DIRECTORY, MARK))


@contextmanager
def packed(location: str, part: Part) -> Iterator[str | None]:
    """A local directory with a pretrained model of an encoder's directory; None where nothing is packed."""
    if not is_packed(location):
        yield None
        return
    with storage.local_copy(storage.join(location, DIRECTORY, part)) as directory:
        yield directory


def pack(encoder: SavedEncoder) -> None:
    """Put the pretrained models that an encoder needs into its directory, local or s3://.

    Raises:
        InputError: they cannot be loaded, or are not those that it was trained with.
    """
    described, config = encoder.description, encoder.description.model
    if isinstance(config, TextConfig):
        raise InputError(
            "training.pack: the weights of a text embedding model are not packed; have model.name be a local directory"
        )
    place, parts = storage.join(encoder.location, DIRECTORY), []
    with tempfile.TemporaryDirectory() as directory:
        if isinstance(config, ModelConfig):
            backbone = load_model(config.backbone, config.backbone_dtype)
            _check(encoder, config.backbone.name, described.backbone_digest, weights_digest(backbone))
            parts.append(_part(directory, "backbone"))
            write_model(backbone, parts[-1])
        if config.event_encoder is not None:
            events = EventEncoder(config.event_encoder, torch.device("cpu"))
            _check(encoder, config.event_encoder.name, described.event_encoder_digest, events.digest)
            parts.append(_part(directory, "event_encoder"))
            write_model(events.model, parts[-1])
            events.tokenizer.save_pretrained(parts[-1])
        storage.upload(directory, place)
    storage.write_json(storage.join(place, MARK), [os.path.basename(part) for part in parts])


def _part(directory: str, name: Part) -> str:
    path = os.path.join(directory, name)
    os.mkdir(path)
    return path


def _check(encoder: SavedEncoder, name: str, expected: str | None, found: str) -> None:
    if found != expected:
        raise InputError(
            f"{encoder.location}: it was trained with the weights {expected}, and '{name}' is {found} now; name those"
        )

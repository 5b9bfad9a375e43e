"""What a saved encoder says about itself: the content of its `encoder.json`, and the digest that names it in tables."""

import json
from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record, digest
from ray_ggsm.masks import MaskConfig
from ray_ggsm.model.encoder import ModelConfig
from ray_ggsm.model.template import Modality

FILE = "encoder.json"
FORMAT = 2


class EncoderDescription(Record):
    """The content of `encoder.json`."""

    format: int
    model: ModelConfig
    mask: MaskConfig
    step: int
    """Optimiser steps done."""
    alpha: float
    """Progress of the mask at that step; below 1, training stopped before the mask was fully open."""
    modalities: tuple[Modality, ...]
    tabular_tokens: int
    feature_names: tuple[str, ...]
    event_width: int
    """Width of event vectors."""
    width: int
    """Width of user vectors."""
    backbone_digest: str
    event_encoder_digest: str
    template_digest: str
    tokenizer_digest: str
    files: dict[str, str]
    """File -> digest of its bytes."""

    @property
    def modality_names(self) -> tuple[str, ...]:
        """The columns of events that the encoder reads."""
        return tuple(modality.name for modality in self.modalities)


@dataclass(frozen=True)
class SavedEncoder:
    """A saved encoder's directory, described but not loaded."""

    location: str
    digest: str
    """of `encoder.json` as it was written; tables name their encoder by it"""
    description: EncoderDescription

    @classmethod
    def read(cls, location: str) -> "SavedEncoder":
        """Read `encoder.json` at a location.

        Raises:
            InputError: there is no encoder, or one of another format.
        """
        file = storage.join(location, FILE)
        if not storage.exists(file):
            raise InputError(
                f"{location}: no saved encoder here ({FILE} is missing); give the directory `encoder` that "
                "jobs/train.py wrote"
            )
        text = storage.read_text(file)
        values = json.loads(text)
        if values["format"] != FORMAT:
            raise InputError(f"{location}: expected an encoder of format {FORMAT}, found {values['format']}")
        return cls(location, digest(values), EncoderDescription.model_validate_json(text))

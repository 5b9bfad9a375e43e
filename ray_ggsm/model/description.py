"""Reads the description of a saved encoder, without loading the encoder."""

import json
import math
from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record, as_before, digest
from ray_ggsm.lineage import reads
from ray_ggsm.masks import MaskConfig
from ray_ggsm.model.kinds import EncoderConfig
from ray_ggsm.model.modality import Modality

FILE = "encoder.json"
FORMAT = 2


class EncoderDescription(Record):
    """The content of `encoder.json`."""

    format: int
    """Version of the directory's files; see `FORMAT`."""
    model: EncoderConfig
    mask: MaskConfig | None = None
    """Of the language model."""
    step: int
    """Number of optimiser steps done."""
    alpha: float = 1.0
    """Progress of the mask at that step; below 1, training stopped before the mask was fully open."""
    modalities: tuple[Modality, ...]
    """Event sequences in the input, in order."""
    tabular_tokens: int = 0
    """Number of vectors that the tabular features become in the language model; 0 without features."""
    feature_names: tuple[str, ...]
    """Tabular features, in order."""
    event_width: int
    """Width of event vectors."""
    width: int
    """Width of user vectors."""
    event_encoder_digest: str
    backbone_digest: str | None = None
    """Of the language model, as the next two."""
    template_digest: str | None = None
    tokenizer_digest: str | None = None
    text_answers: bool | None = None
    """Whether the language model's answers were texts in training, so that a sentence's vector means something. None:
    other kinds, and encoders of before this was written down."""
    files: dict[str, str]
    """Name of a file in the directory -> digest of its bytes."""

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Names of the event columns that the encoder reads."""
        return tuple(modality.name for modality in self.modalities)


@dataclass(frozen=True)
class SavedEncoder:
    """The directory of a saved encoder, with its description but not its weights."""

    location: str
    digest: str
    """Digest of `encoder.json` as it was written; tables name their encoder by it."""
    description: EncoderDescription

    @property
    def parameters(self) -> int:
        """Numbers in the encoder's safetensors files, by their headers."""
        return sum(
            math.prod(shape)
            for name in self.description.files
            if name.endswith(".safetensors")
            for shape in _shapes(storage.join(self.location, name))
        )

    @classmethod
    def find(cls, pattern: str) -> "SavedEncoder":
        """Read the encoder in a directory, or in the only one that a pattern matches; raises like `read`."""
        if "*" not in pattern:
            return cls.read(storage.absolute(pattern))
        found = storage.glob(pattern)
        if len(found) != 1:
            listed = ", ".join(found) or "nothing"
            raise InputError(f"encoder: '{pattern}' must match one directory, and matches {listed}; name one")
        return cls.read(found[0])

    @classmethod
    def read(cls, location: str) -> "SavedEncoder":
        """Read the `encoder.json` in a directory, local or s3://.

        Raises:
            InputError: the directory has no encoder, or one of another format.
        """
        file = storage.join(location, FILE)
        if not storage.exists(file):
            raise InputError(
                f"{location}: no saved encoder here ({FILE} is missing); give the directory `encoder` that "
                "jobs/train.py wrote"
            )
        text = storage.read_text(file)
        try:
            values = json.loads(text)
            version = values["format"]
            description = EncoderDescription.model_validate_json(text) if version == FORMAT else None
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{file}: this does not describe a saved encoder; give the directory `encoder` that jobs/train.py wrote"
            ) from None
        if description is None:
            raise InputError(f"{location}: expected an encoder of format {FORMAT}, found {version}")
        if description.mask is not None:
            description = description.model_copy(update={"mask": as_before(description.mask)})
        reads(location, digest(values))
        return cls(location, digest(values), description)


def _shapes(file: str) -> list[list[int]]:
    """The shapes of the tensors in a safetensors file: it begins with the length of a JSON text about them."""
    fs, path = storage.filesystem(file)
    with fs.open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]

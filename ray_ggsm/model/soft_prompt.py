"""Soft prompts: a few vectors before <USER> that were fitted to one label, while everything else stayed as it was.

Q-Anchor, 3.2.3 and C.3. A prompt is a directory with `prompt.json` and `prompt.safetensors`; an instruction names it as
`prompt:LOCATION`.

Legend: P vectors, D width of the backbone, K classes, W width of user vectors.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record
from ray_ggsm.model.config import PROMPT
from ray_ggsm.model.description import SavedEncoder


class PromptDescription(Record):
    """The content of `prompt.json`."""

    encoder: str
    """Digest of the encoder that it was fitted on, and works with."""
    label: str
    vectors: int
    """P."""
    steps: int
    auc: float | None = None
    """AUC of its own prototypes on the rows that are scored; None: they were not."""


@dataclass(frozen=True)
class SoftPrompt:
    """A fitted prompt."""

    description: PromptDescription
    vector_PD: Tensor
    """float32."""
    prototype_KW: Tensor
    """float32: what a class's user vectors look like; class 1 has the label."""

    def save(self, location: str) -> None:
        """Write it to a directory, local or s3://."""
        with tempfile.TemporaryDirectory() as directory:
            tensors = {"vector_PD": self.vector_PD.contiguous(), "prototype_KW": self.prototype_KW.contiguous()}
            save_file(tensors, os.path.join(directory, "prompt.safetensors"))
            with open(os.path.join(directory, "prompt.json"), "w") as file:
                file.write(self.description.model_dump_json(indent=1))
            storage.upload(directory, location)


def load_prompt(location: str) -> SoftPrompt:
    """Read a prompt.

    Raises:
        InputError: there is none, or a file of it is missing or damaged.
    """
    file = storage.join(location, "prompt.json")
    if not storage.exists(file):
        raise InputError(f"{location}: no soft prompt here (prompt.json is missing); jobs/tune_prompt.py writes one")
    try:
        with storage.local_copy(location) as directory:
            tensors = load_file(os.path.join(directory, "prompt.safetensors"))
        description = PromptDescription.model_validate_json(storage.read_text(file))
        return SoftPrompt(description, tensors["vector_PD"], tensors["prototype_KW"])
    except (FileNotFoundError, ValueError, SafetensorError, KeyError) as error:  # pydantic's errors are ValueErrors
        raise InputError(
            f"{location}: prompt.json or prompt.safetensors is missing or damaged; restore them, or remove the "
            "directory and run jobs/tune_prompt.py again"
        ) from error


def prompts_of(instructions: Sequence[str], encoder: SavedEncoder) -> dict[str, Tensor]:
    """The vectors (P, D) of the prompts that instructions name, by instruction.

    Raises:
        InputError: a prompt is missing, or was fitted on another encoder; or a place is not the same for all processes.
    """
    found: dict[str, Tensor] = {}
    for text in instructions:
        if not text.startswith(PROMPT):
            continue
        location = text.removeprefix(PROMPT)
        if storage.absolute(location) != location:
            raise InputError(
                f"embedding.instructions: '{text}' must name the whole path; jobs/tune_prompt.py prints it"
            )
        prompt = load_prompt(location)
        if prompt.description.encoder != encoder.digest:
            raise InputError(
                f"embedding.instructions: '{text}' was fitted on the encoder {prompt.description.encoder}, and this is "
                f"{encoder.digest}; tune it anew"
            )
        found[text] = prompt.vector_PD
    return found


def embedded(words: nn.Embedding, prompts: Sequence[Tensor], ids_T: Tensor) -> Tensor:
    """Embeddings of tokens, (T, D); ids beyond the vocabulary are the vectors of prompts, one after the other."""
    if not prompts:
        known: Tensor = words(ids_T)
        return known
    V = words.num_embeddings
    known_TD, own_TD = words(ids_T.clamp(max=V - 1)), torch.cat(list(prompts))[(ids_T - V).clamp(min=0)]
    return torch.where((ids_T < V)[:, None], known_TD.float(), own_TD)


def ids_of(prompts: Mapping[str, Tensor], vocabulary: int) -> dict[str, list[int]]:
    """Ids beyond the vocabulary for the vectors of each prompt, in the order of the prompts."""
    ids, first = {}, vocabulary
    for text, vector_PD in prompts.items():
        ids[text] = list(range(first, first + len(vector_PD)))
        first += len(vector_PD)
    return ids

"""What an exported directory says about itself: `export.json`."""

import os
from importlib.metadata import version

from ray_ggsm import storage
from ray_ggsm.config import InputError, Record, digest
from ray_ggsm.data.definition import RowDefinition
from ray_ggsm.model.config import PROMPT
from ray_ggsm.model.description import EncoderDescription, SavedEncoder
from ray_ggsm.model.instructions import check_instructions

FILE = "export.json"
FORMAT = 1


class Manifest(Record):
    """The content of `export.json`."""

    format: int = FORMAT
    """Version of the directory's layout."""
    target: str
    """What it was exported for."""
    package: str
    """Version of ray-ggsm that wrote it."""
    encoder: str
    """Digest of the encoder; versions of embedding tables name their encoder by it."""
    mask: str | None
    """Digest of the mask that vectors are made under; None: this kind of encoder has none."""
    recipe: str | None
    """Name of the mask's recipe."""
    alpha: float
    """How far that mask is open, 0 to 1, as the recipe counts it."""
    finished_mask: bool
    """Whether it is the recipe's inference mask although training stopped before that."""
    rows: str | None
    """Digest of the row definition; None: the encoder does not say what its rows are."""
    instruction: str
    """What every row is asked; empty: what its `query` says."""
    width: int
    """Numbers in a vector."""

    @classmethod
    def of(
        cls,
        target: str,
        encoder: SavedEncoder,
        definition: RowDefinition | None,
        finished_mask: bool,
        instruction: str,
    ) -> "Manifest":
        """The manifest of an export; arguments as the fields.

        Raises:
            InputError: the instruction names a soft prompt or is too long, or the kind of encoder reads none.
        """
        described = encoder.description
        if instruction.startswith(PROMPT):
            raise InputError(f"instruction: '{instruction}' is a soft prompt, which exports do not take; give a text")
        if instruction and described.model.kind != "llm":
            raise InputError(f"instruction: an encoder of the kind {described.model.kind} reads none; leave it out")
        check_instructions({instruction: instruction}, encoder, "instruction")
        return cls(
            target=target,
            package=version("ray-ggsm"),
            encoder=encoder.digest,
            mask=mask_digest(described, finished_mask),
            recipe=described.mask.recipe if described.mask is not None else None,
            alpha=alpha_used(described, finished_mask),
            finished_mask=finished_mask,
            rows=definition.digest if definition is not None else None,
            instruction=instruction,
            width=described.width,
        )

    def write(self, directory: str) -> None:
        """Write it into a local directory."""
        storage.write_json(os.path.join(directory, FILE), self.model_dump(mode="json"))

    @classmethod
    def read(cls, directory: str) -> "Manifest":
        """Read that of a local directory.

        Raises:
            InputError: there is none, or it is of another format.
        """
        file = os.path.join(directory, FILE)
        if not os.path.exists(file):
            raise InputError(f"{directory}: no export here ({FILE} is missing); jobs/export.py writes one")
        found = storage.read_json(file)
        if found.get("format") != FORMAT:
            raise InputError(f"{directory}: expected an export of format {FORMAT}, found {found.get('format')}")
        return cls.model_validate(found)


def is_half_open(described: EncoderDescription, finished_mask: bool) -> bool:
    """Whether vectors are made under a mask that training left before its last form."""
    return alpha_used(described, finished_mask) < 1


def alpha_used(described: EncoderDescription, finished_mask: bool) -> float:
    """How far the mask is open that vectors are made under; the encoder at step 0 has the inference mask."""
    return 1.0 if finished_mask or described.step == 0 else described.alpha


def mask_digest(described: EncoderDescription, finished_mask: bool) -> str | None:
    """Digest of everything that the mask of published vectors depends on; None without a mask.

    It covers the recipe's settings, how far it is open, and the files of the recipe's state and of a learned mask.
    """
    if described.mask is None:
        return None
    alpha = alpha_used(described, finished_mask)
    state = [described.files.get("mask.safetensors")]
    if described.mask.recipe == "hybrid_mlp":
        state.append(described.files.get("modules.safetensors"))
    return digest(described.mask, alpha, described.step if alpha < 1 else None, state)

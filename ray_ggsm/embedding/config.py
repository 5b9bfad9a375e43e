"""Settings for turning user rows into vectors."""

from typing import Literal, Self

from pydantic import Field

from ray_ggsm.config import Config, InputError, Runtime
from ray_ggsm.model.config import PROMPT


class EncodingConfig(Config):
    """Instructions, mask and batches of an embedding run."""

    instructions: dict[str, str] = Field({"default": ""}, min_length=1)
    """Name -> text. Every user gets one vector per instruction; an empty text keeps the `query` of the rows, if any."""
    mask: Literal["trained", "inference"] = "trained"
    """trained: the mask at the end of training, even if training stopped half-way (alpha < 1). inference: the recipe's
    inference mask in both cases."""
    rows_per_chunk: Runtime[int] = Field(16_384, ge=1)
    """Largest number of rows of the input that are read as one. Smaller row groups of the input are joined."""
    rows_per_batch: Runtime[int] = Field(4096, ge=1)
    """Number of rows that are ordered by length together."""
    tokens_per_batch: Runtime[int] = Field(16_384, ge=1)
    """Padded tokens in one forward pass."""

    def check_read_by(self, kind: str) -> None:
        """Check that an encoder of this kind (`model.kind`) reads the instructions and has the mask.

        Raises:
            InputError: it does not; only the language model does.
        """
        if kind == "llm":
            return
        if [*self.instructions.values()] != [""]:
            raise InputError(
                f"embedding.instructions: an encoder of the kind {kind} reads no instruction, so each gets the same "
                "vectors; leave it out, or give one name with an empty text"
            )
        if self.mask != "trained":
            raise InputError(f"embedding.mask: an encoder of the kind {kind} has no attention mask; leave it out")


class EmbeddingConfig(EncodingConfig):
    """The rows of an experiment that are embedded, and the encoder they are embedded with."""

    checkpoint: Literal["final", "untrained"] = "final"
    """final: the trained encoder. untrained: the same encoder at step 0."""
    splits: tuple[str, ...] | None = None
    """Splits of prepared rows to embed; null: the splits that probes are fitted and scored on."""

    def of(self, checkpoint: Literal["final", "untrained"]) -> Self:
        """A copy for this checkpoint. Soft prompts are fitted on the trained encoder, so the one at step 0 is asked
        nothing in their place."""
        asked = self.instructions
        if checkpoint == "untrained":
            asked = {name: "" if text.startswith(PROMPT) else text for name, text in asked.items()}
        return self.model_copy(update={"checkpoint": checkpoint, "instructions": asked})

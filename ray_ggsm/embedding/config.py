"""Settings of embedding."""

from typing import Literal

from pydantic import Field

from ray_ggsm.config import Config, Runtime


class EncodingConfig(Config):
    """How user rows become vectors."""

    instructions: dict[str, str] = Field({"default": ""}, min_length=1)
    """Name -> text. Every user gets one vector per instruction; an empty text leaves the rows' own `query`, if any."""
    mask: Literal["trained", "inference"] = "trained"
    """trained: the mask that training ended with, also where it stopped half-way (alpha < 1). inference: the recipe's
    inference mask in any case."""
    rows_per_chunk: Runtime[int] = Field(16_384, ge=1)
    """Rows that are done, or done again after a failure, as one: row groups of the input join up to this number."""
    rows_per_batch: Runtime[int] = Field(4096, ge=1)
    """Rows that are ordered by length together."""
    tokens_per_batch: Runtime[int] = Field(16_384, ge=1)
    """Padded tokens in one forward pass."""


class EmbeddingConfig(EncodingConfig):
    """Which rows of an experiment are embedded, and how."""

    checkpoint: Literal["final", "untrained"] = "final"
    """The trained encoder, or the same encoder at step 0."""
    splits: tuple[str, ...] | None = None
    """Splits of prepared rows to embed; null: those that probes are fitted and scored on."""

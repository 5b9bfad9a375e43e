"""What an event of a modality is: text, amount, named fields and weighted parts (`data.modalities`)."""

from typing import Self

from pydantic import Field, model_validator

from ray_ggsm.config import Config
from ray_ggsm.data.names import Name


class FieldConfig(Config):
    """A named value of an event: a text, or a number."""

    text: str | None = Field(None, min_length=1)
    """Template over columns, for example '{store}': what stands in the file."""
    number: str | None = None
    """SQL expression over columns."""

    @model_validator(mode="after")
    def _one_kind(self) -> "FieldConfig":
        if (self.text is None) == (self.number is None):
            raise ValueError("give 'text' or 'number', and one of them only")
        return self


class PartsConfig(Config):
    """What an event consists of, for example the categories in a basket."""

    texts: str
    """SQL expression that gives a list of texts, for example "string_split(categories, '|')"."""
    weights: str | None = None
    """SQL expression that gives a list of as many numbers; null: each part weighs 1."""


class ModalityConfig(Config):
    """A sequence of dated events of one kind."""

    table: str
    """Table that holds the events."""
    where: str | None = None
    """SQL condition that chooses rows; null: all rows."""
    text: str | None = Field(None, min_length=1)
    """Template over columns, for example '{page} {item}'. Content only: no dates, no amounts, so that texts recur.
    null: fields and parts say what an event is."""
    amount: str | None = None
    """SQL expression of the event's number; null: events have none."""
    fields: dict[Name, FieldConfig] = Field({})
    """Named values beside the text or instead of it, in this order."""
    parts: PartsConfig | None = None
    """Weighted parts beside the text or instead of it; null: events have none."""
    keep: int = Field(ge=1)
    """The newest this many events of a history are kept."""
    future: bool = True
    """Whether its events belong to the future that training predicts."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.text is None and not self.fields and self.parts is None:
            raise ValueError("give `text`, `fields` or `parts`, or an event says nothing")
        return self

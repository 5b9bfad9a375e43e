"""What a language model must reply: JSON that fits one of these, and nothing else."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class Reply(BaseModel):
    """Base of all formats: no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Scenarios(Reply):
    """Situations in which a company asks something about a user."""

    scenarios: tuple[Text, ...] = Field(min_length=1)


class Choice(Reply):
    """The scenarios that suit a user, the best first."""

    chosen: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Positions in the list that was given."""


class WrittenPair(Reply):
    """A question about a user, and its answer."""

    scenario: int = Field(ge=0)
    """Position in the list that was given."""
    query: Text
    answer: Text


class Pairs(Reply):
    """One pair per scenario."""

    pairs: tuple[WrittenPair, ...] = Field(min_length=1)


class Rules(Reply):
    """What hard pairs have in common, as advice for writing others like them."""

    rules: tuple[Text, ...] = Field(min_length=1)


class Verdict(Reply):
    """What becomes of one pair."""

    pair: int = Field(ge=0)
    """Position in the list that was given."""
    verdict: Literal["keep", "rewrite", "drop"]
    query: Text | None = None
    """The new question, of a pair that is rewritten."""
    answer: Text | None = None
    """The new answer, of a pair that is rewritten."""


class Verdicts(Reply):
    """One verdict per pair."""

    verdicts: tuple[Verdict, ...]

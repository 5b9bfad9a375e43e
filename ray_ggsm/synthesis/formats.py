"""What a language model must reply: JSON that fits one of these, and nothing else."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LONGEST_TEXT = 1000
"""Characters of a question, an answer, a scenario or a rule."""
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]


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


@dataclass(frozen=True)
class Limits:
    """What is known of the reply to one request before it comes. A model that is held to a schema keeps to it."""

    least: int
    """Items of the list, at least."""
    most: int
    """Items of the list, at most."""
    characters: int = LONGEST_TEXT
    """Of a text, at most."""
    positions: int | None = None
    """Length of the list that positions point into; None: the reply has none."""


def schema_of(form: type[Reply], limits: Limits) -> dict[str, object]:
    """The JSON schema of a format within limits."""

    def limited(node: Any) -> Any:
        if isinstance(node, list):
            return [limited(each) for each in node]
        if not isinstance(node, dict):
            return node
        found = {name: limited(each) for name, each in node.items()}
        kind = found.get("type")
        if kind == "array":
            found |= {"minItems": limits.least, "maxItems": limits.most}
        if kind == "string" and "maxLength" in found:
            found["maxLength"] = limits.characters
        if kind == "integer" and limits.positions is not None:
            found["maximum"] = limits.positions - 1
        return found

    schema: dict[str, object] = limited(form.model_json_schema())
    return schema

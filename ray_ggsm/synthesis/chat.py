"""What is asked of a language model, and what comes back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ray_ggsm.config import digest
from ray_ggsm.synthesis.formats import Limits, schema_of
from ray_ggsm.synthesis.formats import Reply as Format

BYTES_PER_TOKEN = 2
"""Fewer than any tokenizer needs on average: reservations are rather too large."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str


@dataclass(frozen=True)
class Ask:
    """One request."""

    messages: tuple[Message, ...]
    format: type[Format]
    """What the reply must be."""
    limits: Limits
    """What else its schema says."""
    model: str
    max_tokens: int
    temperature: float
    seed: int

    @property
    def schema(self) -> dict[str, object]:
        """JSON schema of the reply."""
        return schema_of(self.format, self.limits)

    @property
    def key(self) -> str:
        """Identifies the request: equal ones are asked once."""
        turns = [[m.role, m.content] for m in self.messages]
        return digest(turns, self.schema, self.model, self.max_tokens, self.temperature, self.seed)

    @property
    def estimate(self) -> int:
        """Tokens that prompt and reply may take."""
        return sum(len(m.content.encode()) for m in self.messages) // BYTES_PER_TOKEN + self.max_tokens


@dataclass(frozen=True)
class Reply:
    """The reply to a request."""

    text: str
    prompt_tokens: int
    reply_tokens: int

    @property
    def tokens(self) -> int:
        """Of the prompt and the reply."""
        return self.prompt_tokens + self.reply_tokens


@dataclass(frozen=True)
class Refused:
    """The model will never answer this request: it is too long, or against the server's rules."""

    reason: str


class BudgetSpentError(Exception):
    """The budget has no room for a request."""


Admit = Callable[[Ask], None]
"""Waits until a request may be sent; raises `BudgetSpentError` if it may never be."""


class Chat(Protocol):
    """A language model."""

    def replies(self, asks: Sequence[Ask], admit: Admit) -> Iterator[tuple[int, Reply | Refused]]:
        """The replies to requests, as they come, each with the position of its request.

        Raises:
            BudgetSpentError: `admit` raised it; replies that were under way are given first.
            NotNow: the model cannot be reached.
            InputError: the settings are wrong.
        """

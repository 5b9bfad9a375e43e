"""What is asked of a language model, and what comes back."""

from collections.abc import Sequence
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
    def size(self) -> int:
        """Bytes of the messages."""
        return sum(len(m.content.encode()) for m in self.messages)

    @property
    def estimate(self) -> int:
        """Tokens that prompt and reply may take."""
        return self.size // BYTES_PER_TOKEN + self.max_tokens


@dataclass(frozen=True)
class Reply:
    """The reply to a request."""

    text: str
    prompt_tokens: int
    reply_tokens: int
    cut: bool = False
    """Whether it ended only because it had `max_tokens`."""

    @property
    def tokens(self) -> int:
        """Of the prompt and the reply."""
        return self.prompt_tokens + self.reply_tokens


@dataclass(frozen=True)
class Refused:
    """The model does not answer this request: it is too long, against the server's rules, or answered with nothing."""

    reason: str
    prompt_tokens: int = 0
    reply_tokens: int = 0

    @property
    def tokens(self) -> int:
        """That it cost all the same."""
        return self.prompt_tokens + self.reply_tokens


class BudgetSpentError(Exception):
    """The budget has no room for a request."""


class Purse(Protocol):
    """Where requests get their tokens from (`ray_ggsm.synthesis.budget`), also from another process."""

    def admit(self, ask: Ask) -> None:
        """Wait until the request may be sent; `BudgetSpentError` if it may never be."""

    def settle(self, ask: Ask, used: int) -> None:
        """Say what a request that was admitted has used."""


class Desk(Purse, Protocol):
    """Where replies go, too. All threads may use it."""

    def answered(self, ask: Ask, reply: Reply | Refused) -> None:
        """Keep what came of a request."""

    def found(self, ask: Ask, reply: Reply | Refused) -> None:
        """Keep what had come of it in an earlier run, which costs nothing."""


class Chat(Protocol):
    """A language model."""

    def answer(self, asks: Sequence[Ask], desk: Desk) -> None:
        """Give the desk the replies to requests, each as it comes.

        Raises:
            BudgetSpentError: `desk.admit` raised it; what was under way is answered first.
            NotNow: the model cannot be reached; what was under way is answered first.
            InputError: the settings are wrong.
        """

"""Settings of query-answer pairs: who writes them, at what price, and what counts as hard. Paper, 3.2."""

from typing import Annotated, Literal

from pydantic import Field

from ray_ggsm.config import Before, Config, Runtime
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.synthesis.formats import LONGEST_TEXT


class RulesConfig(Config):
    """No language model: questions whose answers are counted from a user's history and future."""

    kind: Literal["rules"]
    contents: int = Field(5, ge=1)
    """Contents that an answer lists at most."""


class _LanguageModelConfig(Config):
    max_reply_tokens: Annotated[int, Before(1024)] = Field(4096, ge=16)
    """Longest reply, in tokens; it must have room for all `scenarios`, and for all pairs of a user."""
    temperature: float = Field(0.7, ge=0)
    """Of sampling; 0: the likeliest reply."""
    longest_text: int = Field(LONGEST_TEXT, ge=1, le=LONGEST_TEXT)
    """Characters of a question, an answer, a scenario or a rule, as the schema of a reply allows them."""
    events: int = Field(100, ge=1)
    """Newest events of a user that the model is shown."""


class OpenAIConfig(_LanguageModelConfig):
    """A server with OpenAI's interface: vLLM, SGLang, or a hosted one."""

    kind: Literal["openai"]
    base_url: Runtime[str] = Field(pattern=r"^https?://")
    """For example http://vllm:8000/v1. Replies go by the name of the model, not by where it is."""
    model: str
    """Name of the model there."""
    user_data_leave_the_cluster: Runtime[bool]
    """Every request holds a user's history, and goes to `base_url`: say `true`, or no request is made."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; without the variable, none is sent."""
    json_schema: bool = True
    """Ask the server for replies that fit the schema (`response_format`)."""
    in_flight: Runtime[int] = Field(32, ge=1)
    """Requests that wait for a reply at a time, over all workers."""
    timeout_s: Runtime[float] = Field(120.0, gt=0)
    """Longest wait for a reply, seconds."""
    retries: Runtime[int] = Field(8, ge=0)
    """Further tries after no reply, "too many requests" and errors of the server, with growing pauses in between."""


class TransformersConfig(_LanguageModelConfig):
    """A language model in the worker's own process; nothing leaves it."""

    kind: Literal["transformers"]
    name: str
    """Directory, hub name, path of a .gguf file, or package:NAME/PATH, with a chat template."""
    revision: str | None = None
    """Hub revision (commit) to pin; null: the hub's default branch."""
    batch_size: Runtime[int] = Field(16, ge=1)
    """Requests that are answered together."""


class RecordedRepliesConfig(_LanguageModelConfig):
    """Recorded replies: the directory `replies` of an earlier run. What was not recorded is an error."""

    kind: Literal["replay"]
    replies: str
    """That directory."""
    model: str
    """Name of the model that wrote them."""


LanguageModelConfig = OpenAIConfig | TransformersConfig | RecordedRepliesConfig
ClientConfig = Annotated[RulesConfig | LanguageModelConfig, Field(discriminator="kind")]
"""Who writes the pairs."""


class BudgetConfig(Config):
    """What a run may spend; what is answered already costs nothing."""

    tokens: int | None = Field(None, ge=1)
    """Tokens of prompts and replies in all, over all runs in this `output`; null: no limit."""
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)
    prompt_price: float = Field(0.0, ge=0)
    """Price of a million prompt tokens, for the estimate."""
    reply_price: float = Field(0.0, ge=0)
    """Price of a million reply tokens, for the estimate."""


class DifficultyConfig(Config):
    """Which pairs are hard: S_d = 1 - cos(Emb(user and query), Emb(answer)) of eq. 3, against a threshold."""

    embedding: EventEncoderConfig | None = None
    """The model Emb; null: nothing is measured, and no rules are induced. It reads `max_word_pieces`, not `max_tokens`,
    which is for events."""
    max_word_pieces: Annotated[int, Before(64)] = Field(256, ge=8)
    """Word pieces of a question with its user, and of an answer, that Emb reads; the page says how many texts are
    longer."""
    threshold: float | None = Field(None, ge=0, le=2)
    """S_d from which on a pair is hard; or `quantile`."""
    quantile: float = Field(0.7, gt=0, lt=1)
    """Without a threshold: this quantile of the calibration set."""


class PairsConfig(Config):
    """The pairs to write."""

    scenarios: int = Field(72, ge=1)
    """Size of the pool."""
    per_user: int = Field(10, ge=1)
    """Scenarios chosen for a user row; each gives one pair."""
    calibration: int = Field(1000, ge=1)
    """Pairs of the calibration set."""
    hard_batch: int = Field(50, ge=1)
    """Hard pairs that rules are induced from at a time."""
    rules: int = Field(10, ge=0)
    """Rules that are kept; 0: none are induced."""
    rewriting: bool = True
    """Whether every pair is checked against the user's history, and rewritten or dropped."""

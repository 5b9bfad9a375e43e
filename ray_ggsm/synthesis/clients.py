"""The language models that can be asked: a server, a model in this process, or recorded replies."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ray_ggsm.config import InputError
from ray_ggsm.model.config import PretrainedConfig
from ray_ggsm.synthesis.asking import kept
from ray_ggsm.synthesis.chat import Ask, BudgetSpentError, Chat, Desk, Message, Refused, Reply
from ray_ggsm.synthesis.config import LanguageModelConfig, OpenAIConfig, RecordedRepliesConfig, TransformersConfig
from ray_ggsm.synthesis.prompts import can_hold
from ray_ggsm.synthesis.server import ServerChat

if TYPE_CHECKING:
    import torch


def chat_of(config: LanguageModelConfig, workers: int, device: "torch.device") -> Chat:
    """The model that a config names; `workers` share its requests, and a model in this process is on `device`."""
    if isinstance(config, OpenAIConfig):
        return ServerChat(config, config.in_flight // workers)
    if isinstance(config, TransformersConfig):
        return LocalChat(config, device)
    return ReplayChat(config)


def model_of(config: LanguageModelConfig) -> str:
    """The model's name, which requests are kept under; NAME@REVISION where a revision is pinned."""
    if not isinstance(config, TransformersConfig):
        return config.model
    return f"{config.name}@{config.revision}" if config.revision else config.name


class LocalChat:
    """A language model of transformers in this process. A grammar lets it write nothing but the format's JSON."""

    def __init__(self, config: TransformersConfig, device: "torch.device") -> None:
        """Load the model; errors as in `Generator`.

        Raises:
            InputError: what users typed could begin a turn of its chat template.
        """
        from ray_ggsm.model.generation import Generator  # of a server, transformers is not needed

        pretrained = PretrainedConfig(name=config.name, revision=config.revision)
        self.config, self.generator = config, Generator(pretrained, device)
        if open_marks := [mark for mark in self.generator.marks() if can_hold(mark)]:
            raise InputError(
                f"client.name: the chat template of '{config.name}' begins a turn with plain words"
                f" ({open_marks[0]!r}), which what a user typed may hold; take a model whose turns begin with tokens of"
                " their own (<|...|>)"
            )

    def answer(self, asks: Sequence[Ask], desk: Desk) -> None:
        """As in `Chat`: batch by batch."""
        by_format: dict[Any, list[Ask]] = {}
        for ask in asks:
            by_format.setdefault((ask.format, ask.limits, ask.max_tokens, ask.temperature), []).append(ask)
        size = self.config.batch_size
        for alike in by_format.values():
            for first in range(0, len(alike), size):
                self._answer(alike[first : first + size], desk)

    def _answer(self, asks: Sequence[Ask], desk: Desk) -> None:
        """One batch: as much of it as there are tokens for."""
        admitted: list[Ask] = []
        spent: BudgetSpentError | None = None
        for ask in asks:
            try:
                desk.admit(ask)
            except BudgetSpentError as error:
                spent = error
                break
            admitted.append(ask)
        for ask, reply in zip(admitted, self._batch(admitted), strict=True):
            desk.settle(ask, reply.tokens)
            desk.answered(ask, reply)
        if spent is not None:
            raise spent

    def _batch(self, asks: Sequence[Ask]) -> list[Reply | Refused]:
        if not asks:
            return []
        turns = [[{"role": m.role, "content": m.content} for m in ask.messages] for ask in asks]
        first, longest = asks[0], self.generator.longest
        written = self.generator.write(turns, first.max_tokens, first.temperature, first.seed, first.schema)
        too_long = Refused(
            f"the prompt and a reply of client.max_reply_tokens ({first.max_tokens}) take more than the {longest}"
            " tokens that the model can read; lower max_reply_tokens or client.events"
        )
        return [too_long if each is None else _local(*each, first.max_tokens) for each in written]


def _local(text: str, prompt_tokens: int, reply_tokens: int, most: int) -> Reply | Refused:
    if not text.strip():
        return Refused("an empty reply", prompt_tokens, reply_tokens)
    return Reply(text, prompt_tokens, reply_tokens, cut=reply_tokens >= most)


class ReplayChat:
    """Replies of an earlier run."""

    def __init__(self, config: RecordedRepliesConfig) -> None:
        self.config = config

    def answer(self, asks: Sequence[Ask], desk: Desk) -> None:
        """As in `Chat`; nothing is spent."""
        for ask in asks:
            reply = kept(self.config.replies, ask.key)
            if reply is None:
                raise InputError(
                    f"client.replies: {self.config.replies} has no reply to request {ask.key}: it was never recorded"
                )
            desk.found(ask, reply)


def conversation(system: str, data: str) -> tuple[Message, Message]:
    """A prompt, and the document that it speaks of."""
    return Message("system", system), Message("user", data)

"""The language models that can be asked: a server, a model in this process, or recorded replies."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from ray_ggsm.config import InputError, NotNow
from ray_ggsm.model.config import PretrainedConfig
from ray_ggsm.synthesis.asking import kept
from ray_ggsm.synthesis.chat import Admit, Ask, BudgetSpentError, Chat, Message, Refused, Reply
from ray_ggsm.synthesis.config import (
    ClientConfig,
    LanguageModelConfig,
    OpenAIConfig,
    RecordedRepliesConfig,
    TransformersConfig,
)

if TYPE_CHECKING:
    import torch

WRONG_SETTINGS = (401, 403, 404)
"""Codes of a server that knows neither the key, nor the model, nor the address."""
NEVER = (400, 413, 422)
"""Codes for a request that the server will never answer."""


def chat_of(config: LanguageModelConfig, workers: int, device: "torch.device") -> Chat:
    """The model that a config names; `workers` share its requests, and a model in this process is on `device`."""
    if isinstance(config, OpenAIConfig):
        return ServerChat(config, config.in_flight // workers)
    if isinstance(config, TransformersConfig):
        return LocalChat(config, device)
    return ReplayChat(config)


def check_allowed(config: ClientConfig) -> None:
    """Raises InputError if the config does not let user data go where its requests would go."""
    if isinstance(config, OpenAIConfig) and not config.user_data_leave_the_cluster:
        raise InputError(
            f"client.user_data_leave_the_cluster: false, so nothing may be sent to {config.base_url}; say true, or"
            " take kind: transformers or rules"
        )


def model_of(config: LanguageModelConfig) -> str:
    """The model's name, which requests are kept under."""
    return config.name if isinstance(config, TransformersConfig) else config.model


class ServerChat:
    """A server with OpenAI's interface; the library waits and tries again."""

    def __init__(self, config: OpenAIConfig, in_flight: int) -> None:
        """Take the settings; the key is read from the environment.

        Raises:
            InputError: nothing may be sent, or the library is not installed.
        """
        check_allowed(config)
        try:
            import openai
        except ImportError:
            raise InputError(
                "client.kind: openai: openai is not installed; pip install 'ray-ggsm[synthesis]'"
            ) from None
        self.openai, self.config, self.in_flight = openai, config, max(1, in_flight)
        key = os.environ.get(config.key_variable) or "none"
        self.client = openai.OpenAI(
            base_url=config.base_url, api_key=key, max_retries=config.retries, timeout=config.timeout_s
        )

    def replies(self, asks: Sequence[Ask], admit: Admit) -> Iterator[tuple[int, Reply | Refused]]:
        """As in `Chat`."""
        waiting = list(enumerate(asks))[::-1]
        stopped: Exception | None = None
        running: dict[Future[Reply | Refused], int] = {}
        with ThreadPoolExecutor(self.in_flight) as pool:
            while running or (waiting and stopped is None):
                # a pause between two requests keeps no reply waiting
                while waiting and stopped is None and len(running) < self.in_flight and not any(map(_done, running)):
                    n, ask = waiting.pop()
                    try:
                        admit(ask)
                    except BudgetSpentError as error:
                        stopped = error
                    else:
                        running[pool.submit(self._reply, ask)] = n
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    n = running.pop(future)
                    try:
                        reply = future.result()
                    except (NotNow, InputError) as error:  # the others may have been answered
                        stopped = stopped or error
                    else:
                        yield n, reply
        if stopped is not None:
            raise stopped

    def _reply(self, ask: Ask) -> Reply | Refused:
        form = {"name": ask.format.__name__, "schema": ask.schema}
        messages: Any = [{"role": m.role, "content": m.content} for m in ask.messages]
        more: Any = {"response_format": {"type": "json_schema", "json_schema": form}}
        try:
            found = self.client.chat.completions.create(
                model=ask.model,
                messages=messages,
                max_tokens=ask.max_tokens,
                temperature=ask.temperature,
                seed=ask.seed,
                **(more if self.config.json_schema else {}),
            )
        except self.openai.APIStatusError as error:
            return self._of_status(error.status_code, _told(error))
        except (self.openai.APIConnectionError, self.openai.APIResponseValidationError) as error:
            raise NotNow(f"client.base_url: {self.config.base_url} does not answer ({_told(error)})") from error
        text = found.choices[0].message.content if found.choices else None
        if text is None:
            return Refused("an empty reply")
        usage = found.usage
        if usage is None:  # then the estimate is all that is known
            return Reply(text, ask.estimate - ask.max_tokens, ask.max_tokens)
        return Reply(text, usage.prompt_tokens, usage.completion_tokens)

    def _of_status(self, code: int, why: str) -> Refused:
        where = f"client: {self.config.base_url}"
        if code in WRONG_SETTINGS:
            raise InputError(
                f"{where} answers {code} ({why}); check base_url, model and the variable {self.config.key_variable}"
            )
        if code in NEVER:
            return Refused(f"{code}: {why}")
        raise NotNow(f"{where} answers {code} after {self.config.retries} further tries ({why})")


def _done(future: Future[Reply | Refused]) -> bool:
    return future.done()


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class LocalChat:
    """A language model of transformers in this process. A grammar lets it write nothing but the format's JSON."""

    def __init__(self, config: TransformersConfig, device: "torch.device") -> None:
        """Load the model; errors as in `Generator`."""
        from ray_ggsm.model.generation import Generator  # of a server, transformers is not needed

        pretrained = PretrainedConfig(name=config.name, revision=config.revision)
        self.config, self.generator = config, Generator(pretrained, device)

    def replies(self, asks: Sequence[Ask], admit: Admit) -> Iterator[tuple[int, Reply | Refused]]:
        """As in `Chat`: batch by batch."""
        by_format: dict[Any, list[int]] = {}
        for n, ask in enumerate(asks):
            by_format.setdefault((ask.format, ask.limits, ask.max_tokens, ask.temperature), []).append(n)
        size = self.config.batch_size
        for positions in by_format.values():
            for first in range(0, len(positions), size):
                batch = positions[first : first + size]
                for n in batch:
                    admit(asks[n])
                yield from zip(batch, self._batch([asks[n] for n in batch]), strict=True)

    def _batch(self, asks: Sequence[Ask]) -> list[Reply | Refused]:
        turns = [[{"role": m.role, "content": m.content} for m in ask.messages] for ask in asks]
        first = asks[0]
        written = self.generator.write(turns, first.max_tokens, first.temperature, first.seed, first.schema)
        return [
            Refused(f"the prompt is longer than the {self.generator.longest} tokens that the model can read")
            if each is None
            else Reply(*each)
            for each in written
        ]


class ReplayChat:
    """Replies of an earlier run."""

    def __init__(self, config: RecordedRepliesConfig) -> None:
        self.config = config

    def replies(self, asks: Sequence[Ask], admit: Admit) -> Iterator[tuple[int, Reply | Refused]]:
        """As in `Chat`; nothing is spent."""
        for n, ask in enumerate(asks):
            found = kept(self.config.replies, ask.key)
            if found is None:
                raise InputError(
                    f"client.replies: {self.config.replies} has no reply to request {ask.key}: it was never recorded"
                )
            yield n, found


def conversation(system: str, data: str) -> tuple[Message, Message]:
    """A prompt, and the document that it speaks of."""
    return Message("system", system), Message("user", data)

"""A language model on a server with OpenAI's interface.

The openai library sends each request once. Trying again happens here, because each try takes tokens of the budget.
"""

import itertools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ray_ggsm.config import InputError, NotNow
from ray_ggsm.synthesis.chat import Ask, Desk, Message, Refused, Reply
from ray_ggsm.synthesis.config import ClientConfig, OpenAIConfig
from ray_ggsm.synthesis.response import NoReply, of_status, read, short

WRONG_SETTINGS = (401, 403, 404)
"""Codes of a server that knows neither the key, nor the model, nor the address; or forbids one request."""
HARMLESS = (Message("user", "Reply with the word yes."),)
"""A request that no server forbids, which tells the two apart."""
UNSENT = ("ConnectError", "ConnectTimeout")
"""Errors of the openai library's client (httpx or httpx2) with which nothing was sent."""
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_ASKED = 0.5, 8.0, 60.0
"""Seconds before another try: at first, after some, and at most if the server says how many."""


def check_allowed(config: ClientConfig) -> None:
    """Raises InputError if the config does not let user data go where its requests would go."""
    if isinstance(config, OpenAIConfig) and not config.user_data_leave_the_cluster:
        raise InputError(
            f"client.user_data_leave_the_cluster: false, so nothing may be sent to {config.base_url}; say true, or"
            " take kind: transformers or rules"
        )


class ServerChat:
    """The server."""

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
        self.answered, self.trial = 0, threading.Lock()
        key = os.environ.get(config.key_variable) or "none"
        self.client = openai.OpenAI(base_url=config.base_url, api_key=key, max_retries=0, timeout=config.timeout_s)

    def answer(self, asks: Sequence[Ask], desk: Desk) -> None:
        """As in `Chat`. Each request has a thread, which waits, sends, and gives away its reply."""
        failures: list[Exception] = []

        def one(ask: Ask) -> None:
            if failures:
                return
            try:
                desk.answered(ask, self._reply(ask, desk))
            except Exception as error:  # those under way are to be answered all the same
                failures.append(error)

        with ThreadPoolExecutor(self.in_flight) as pool:
            list(pool.map(one, asks))
        if failures:
            raise failures[0]

    def _reply(self, ask: Ask, desk: Desk) -> Reply | Refused:
        """What comes of a request, after further tries where they may help."""
        for n in itertools.count():
            before = self.answered
            found = self._sent(ask, desk)
            if not isinstance(found, NoReply):
                self.answered += isinstance(found, Reply)
                return found
            if found.code in WRONG_SETTINGS:
                return self._forbidden(ask, found, desk, before)
            if n == self.config.retries:
                raise self._not_now(found)
            time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**n) if found.pause is None else found.pause)
        raise AssertionError("unreachable")

    def _sent(self, ask: Ask, desk: Desk) -> Reply | Refused | NoReply:
        desk.admit(ask)
        found = self._try(ask)
        desk.settle(ask, found.tokens)
        return found

    def _try(self, ask: Ask) -> Reply | Refused | NoReply:
        form = {"name": ask.format.__name__, "schema": ask.schema}
        more: Any = {"response_format": {"type": "json_schema", "json_schema": form}}
        messages: Any = [{"role": m.role, "content": m.content} for m in ask.messages]
        try:
            response = self.client.chat.completions.with_raw_response.create(
                model=ask.model,
                messages=messages,
                max_tokens=ask.max_tokens,
                temperature=ask.temperature,
                seed=ask.seed,
                **(more if self.config.json_schema else {}),
            )
            return read(response.http_response.content, ask)
        except self.openai.APIStatusError as error:
            said = f"{error.status_code} ({short(str(error))})"
            return of_status(error.status_code, said, ask, _asked_pause(error.response.headers))
        except self.openai.APIConnectionError as error:
            unsent = type(error.__cause__).__name__ in UNSENT
            return NoReply(f"does not answer ({short(str(error))})", 0 if unsent else ask.estimate)

    def _forbidden(self, ask: Ask, found: NoReply, desk: Desk, before: int) -> Refused:
        """A refusal, if the server answers other requests; else the settings are wrong, or are so by now: a key can
        expire. `before` says how many it had answered when this one was sent."""
        with self.trial:
            if self.answered == before:
                trial = self._sent(replace(ask, messages=HARMLESS, max_tokens=16), desk)
                if isinstance(trial, NoReply):
                    raise self._wrong_settings(trial) if trial.code in WRONG_SETTINGS else self._not_now(trial)
                self.answered += 1
        return Refused(found.why)

    def _wrong_settings(self, found: NoReply) -> InputError:
        variable = self.config.key_variable
        return InputError(
            f"client: {self.config.base_url} {found.why}; check base_url, model and the variable {variable}"
        )

    def _not_now(self, found: NoReply) -> NotNow:
        tries = f" after {self.config.retries} further tries" if self.config.retries else ""
        return NotNow(f"client.base_url: {self.config.base_url} {found.why}{tries}")


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait."""
    for name, per_second in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return min(LONGEST_ASKED, max(0.0, float(headers.get(name, "")) / per_second))
        except ValueError:  # none, or a date
            continue
    return None

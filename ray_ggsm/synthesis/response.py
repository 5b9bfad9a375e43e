"""What a server with OpenAI's interface has answered: a reply, a refusal, or nothing that can be read as either."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from ray_ggsm.synthesis.chat import Ask, Refused, Reply

NEVER = (400, 413, 422)
"""Codes for a request that the server will never answer."""
FREE = 503
"""Code of a server that is too busy to begin: nothing is billed."""


@dataclass(frozen=True)
class NoReply:
    """A try that gave nothing; another may."""

    why: str
    """The rest of a sentence about the server."""
    tokens: int
    """That it may have cost all the same."""
    code: int | None = None
    pause: float | None = None
    """Seconds that the server asks to wait."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None


class _Answer(BaseModel):
    choices: tuple[_Choice, ...] = Field(min_length=1)
    usage: _Usage | None = None


def of_status(code: int, said: str, ask: Ask, pause: float | None = None) -> Refused | NoReply:
    """What an error means."""
    if code in NEVER:
        return Refused(said)
    return NoReply(f"answers {said}", ask.estimate if code >= 500 and code != FREE else 0, code, pause)


def read(body: bytes, ask: Ask) -> Reply | Refused | NoReply:
    """What the body of a response without an error code means. Characters that no text can hold become "?"."""
    try:
        plain = json.loads(body)
        if isinstance(plain, dict) and plain.get("error"):
            return _of_error(plain["error"], ask)
        answer = _Answer.model_validate_json(json.dumps(plain, ensure_ascii=False).encode(errors="replace"))
    except (ValidationError, ValueError, RecursionError):
        came = short(body.decode(errors="replace")) or "an empty page"
        return NoReply(f"answers with what is no reply ({came}); is this the address of the API?", ask.estimate)
    choice, usage = answer.choices[0], answer.usage or _Usage()
    prompt = ask.estimate - ask.max_tokens if usage.prompt_tokens is None else usage.prompt_tokens
    reply = ask.max_tokens if usage.completion_tokens is None else usage.completion_tokens
    text, cut = choice.message.content or "", choice.finish_reason == "length"
    if not text.strip() and not cut:
        why = choice.message.refusal or f"an empty reply (finish_reason {choice.finish_reason})"
        return Refused(why, prompt, reply)
    return Reply(text, prompt, reply, cut)


def _of_error(error: Any, ask: Ask) -> Refused | NoReply:
    """An error that comes with code 200; without a code of its own, it is one of the server."""
    code = str(error.get("code", "")) if isinstance(error, dict) else ""
    return of_status(int(code) if code.isdecimal() else 500, f"200 with the error {short(json.dumps(error))}", ask)


def short(text: str) -> str:
    """The beginning, on one line."""
    return " ".join(text.split())[:200]

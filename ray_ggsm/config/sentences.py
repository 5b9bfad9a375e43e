"""Validation errors as sentences that name the key as the user wrote it, and the nearest valid name."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from ray_ggsm.config.base import Config
from ray_ggsm.config.places import WORDS, Path, Place, place_of


@dataclass(frozen=True)
class Problem:
    """One mistake in a config."""

    path: Path
    """Path of the value that is wrong; of a missing key, the path of the mapping that lacks it."""
    sentence: str
    """What is wrong, beginning with the key's path as the user wrote it."""


_WRONG_SHAPE = {"model_type": dict, "dict_type": dict, "tuple_type": list, "list_type": list}
"""Kind of pydantic's error -> shape that the value should have."""
_WRONG_LENGTH = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}


def problems(schema: type[Config], values: Any, error: ValidationError) -> list[Problem]:
    """One readable sentence per mistake, each mistake once."""
    errors = error.errors()
    found = [_problem(schema, values, details, errors) for details in errors if not _follows(details, errors)]
    return list(dict.fromkeys(problem for problem in found if problem is not None))


def _follows(details: Any, errors: Sequence[Any]) -> bool:
    """Whether a list is too short only because items of it are wrong."""
    loc = details["loc"]
    return details["type"] == "too_short" and any(other["loc"][: len(loc)] == loc != other["loc"] for other in errors)


def _problem(schema: type[Config], values: Any, details: Any, errors: Sequence[Any]) -> Problem | None:
    place = place_of(schema, values, details["loc"], errors)
    if place is None:
        return None
    sentence = _sentence(place, details)
    if details["type"] == "missing":
        return Problem(place.path[:-1], sentence)
    key = (_discriminator(details),) if details["type"] == "union_tag_invalid" else ()
    return Problem((*place.path, *key), sentence)


def _sentence(place: Place, problem: Any) -> str:
    """The sentence for an error of pydantic."""
    loc, kind, where = problem["loc"], problem["type"], ".".join(place.path) or "top level"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), place.names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys are: {', '.join(sorted(place.names))}"
        return f"{where}: unknown key; {hint}"
    if kind == "missing":
        return f"{where}: this {'item' if isinstance(loc[-1], int) else 'key'} is required and missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        context = problem["ctx"]
        tags = context.get("expected_tags", "")
        return f"{where}.{_discriminator(problem)}: expected one of {tags or 'its known values'}" + (
            f", found '{context['tag']}'" if "tag" in context else ", found nothing"
        )
    if kind == "value_error" and not place.path:
        return _expected(place, problem)  # about several sections: it names the key itself
    found = "" if kind == "value_error" and isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    return f"{where}: {_expected(place, problem)}{found}"


def _expected(place: Place, problem: Any) -> str:
    """What the schema expects of a value."""
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if place.expected is not None:
        return f"expected {place.expected}"
    if kind in _WRONG_SHAPE:
        return f"expected {WORDS[_WRONG_SHAPE[kind]]}"
    if kind in _WRONG_LENGTH:
        words, limit = _WRONG_LENGTH[kind]
        number = problem["ctx"][limit]
        return f"expected {words} {number} {'entry' if number == 1 else 'entries'}"
    return f"{message[0].lower()}{message[1:]}"


def _discriminator(problem: Any) -> str:
    name: str = problem["ctx"]["discriminator"]
    return name.strip("'").removesuffix("()")  # where a function finds it

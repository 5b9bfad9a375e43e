"""Validation errors as sentences that name the key as the user wrote it, and the nearest valid name."""

import difflib
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import ValidationError

from ray_ggsm.config.base import Config

Path = tuple[str, ...]
"""Keys from the top level down; positions in lists are numbers from 0."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a config."""

    path: Path
    """Path of the value that is wrong; of a missing key, the path of the mapping that lacks it."""
    sentence: str
    """What is wrong, beginning with the key's path as the user wrote it."""


def problems(schema: type[Config], values: Any, error: ValidationError) -> list[Problem]:
    """One readable sentence per mistake, each mistake once."""
    return list(dict.fromkeys(_problem(schema, values, details) for details in error.errors()))


def _problem(schema: type[Config], values: Any, details: Any) -> Problem:
    path, names = _trace(schema, values, details["loc"])
    sentence = _sentence(".".join(path) or "top level", names, details)
    return Problem(tuple(path[:-1] if details["type"] == "missing" else path), sentence)


def _sentence(where: str, names: list[str], problem: Any) -> str:
    """The sentence for an error of pydantic about the key `where`, beside which the schema has the keys `names`."""
    loc, kind = problem["loc"], problem["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid keys are: {', '.join(sorted(names))}"
        return f"{where}: unknown key; {hint}"
    if kind == "missing":
        return f"{where}: this key is required and missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        context = problem["ctx"]
        tags = context.get("expected_tags", "")
        return f"{where}.{context['discriminator'].strip(chr(39))}: expected one of {tags or 'its known values'}" + (
            f", found '{context['tag']}'" if "tag" in context else ", found nothing"
        )
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error" and not loc:
        return str(message)  # about several sections: it names the key itself
    found = "" if kind == "value_error" and isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{found}"


def _trace(schema: Any, values: Any, loc: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """The path of `loc` without union tags, and the valid names for its last key."""
    path: list[str] = []
    names: list[str] = []
    current: Any = schema
    for element in loc:
        current, is_tag = _choose(current, element, values)
        if is_tag:
            continue
        fields = getattr(current, "model_fields", None)
        names = list(fields) if fields else []
        path.append(str(element))
        if fields:
            current = fields[element].annotation if element in fields else None
        else:
            arguments = typing.get_args(current)
            current = arguments[-1 if typing.get_origin(current) is dict else 0] if arguments else None
        values = _step(values, element)
    return path, names


def _step(values: Any, element: Any) -> Any:
    if isinstance(values, dict):
        return values.get(element)
    return values[element] if isinstance(values, list) and isinstance(element, int) else None


def _choose(annotation: Any, element: Any, values: Any) -> tuple[Any, bool]:
    """Unwrap Annotated, Optional and discriminated unions; also tell whether `element` is only a union's tag."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    members = [
        _choose(member, element, values)[0] for member in typing.get_args(annotation) if member is not type(None)
    ]
    for member in members:
        for field in getattr(member, "model_fields", {}).values():
            tags = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()
            if element in tags and len(tags) == 1 and not (isinstance(values, dict) and element in values):
                return member, True
    return (members[0] if members else annotation), False

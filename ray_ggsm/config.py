"""Strict YAML -> frozen, typed configs.

Every config class lives beside the code that reads it and derives from `Config`; `ray_ggsm.experiment` composes them.
Unknown, duplicate and mistyped keys are errors that name the file, the key's path and the nearest valid name.
"""

import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ray_ggsm import storage


class InputError(ValueError):
    """The user's input is wrong: one sentence naming the file and the key, column or row. Jobs exit with code 2."""


class Config(BaseModel):
    """Base of all config classes: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


AnyConfig = TypeVar("AnyConfig", bound=Config)


class _StrictLoader(yaml.SafeLoader):
    """`SafeLoader` that refuses duplicate keys and reads `1e-4` as a number (YAML 1.1 calls it a string)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key_node, deep=True) for key_node, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                line = node.value[position][0].start_mark.line + 1
                raise InputError(f"line {line}: key '{key}' is given twice; keep one of them")
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(schema: type[AnyConfig], location: str, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a YAML file (local or s3://) into `schema`, after applying `key.path=value` overrides in order.

    Raises:
        InputError: the file is missing or no YAML mapping, or a key is unknown, duplicate, missing or mistyped.
    """
    try:
        text = storage.read_text(location)
    except FileNotFoundError as error:
        raise InputError(f"{location}: no such config file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{location}: cannot be read as a UTF-8 text file ({error})") from error
    values = _parse(text, location)
    if not isinstance(values, dict):
        raise InputError(f"{location}: expected a mapping of keys to values, found {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    return build(schema, values, location)


def build(schema: type[AnyConfig], values: dict[str, Any], origin: str) -> AnyConfig:
    """Validate plain values (as YAML gives them) into `schema`; `origin` names them in errors."""
    try:
        # JSON mode keeps scalars strict and still lets lists become tuples and ISO strings dates.
        return schema.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = [_sentence(schema, values, problem) for problem in error.errors()]
        raise InputError("\n".join(f"{origin}: {line}" for line in dict.fromkeys(lines))) from None


def digest(*parts: Any) -> str:
    """16 hex digits that identify configs and plain values: equal content in equal order gives an equal digest."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def _parse(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, InputError) as error:
        raise InputError(f"{origin}: {' '.join(str(error).split())}") from None


def _override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override}: expected key.path=value")
    target: Any = values
    for depth, key in enumerate(keys[:-1]):
        target = target[_index(target, key, override)] if isinstance(target, list) else target.setdefault(key, {})
        if not isinstance(target, dict | list):
            raise InputError(f"--set {override}: '{'.'.join(keys[: depth + 1])}' is a value, it has no keys below it")
    last = _index(target, keys[-1], override) if isinstance(target, list) else keys[-1]
    target[last] = _parse(text, f"--set {override}")


def _index(values: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(values):
        raise InputError(f"--set {override}: '{key}' is no position in a list of {len(values)}")
    return int(key)


def _sentence(schema: type[Config], values: Any, problem: Any) -> str:
    """One readable sentence for a pydantic error, with the key's path as the user wrote it."""
    loc, kind = problem["loc"], problem["type"]
    path, names = _trace(schema, values, loc)
    where = ".".join(path) or "top level"
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
    found = "" if kind == "value_error" and isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{found}"


def _trace(schema: Any, values: Any, loc: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """The path of `loc` without union tags, and the valid key names beside its last element."""
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
    """Unwrap Annotated, Optional and discriminated unions; say whether `element` is only a union's tag."""
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

"""Where in a config a validation error is: the keys as the user wrote them, without pydantic's names of types."""

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel

Path = tuple[str, ...]
"""Keys from the top level down; positions in lists are numbers from 0."""
WORDS: dict[type, str] = {dict: "a mapping of keys to values", list: "a list"}
"""YAML's words for the shapes of values."""


@dataclass(frozen=True)
class Place:
    """Where an error of pydantic is."""

    path: Path
    names: list[str]
    """The valid names for the path's last key."""
    expected: str | None = None
    """What a union of types expects instead of the value; None: pydantic's error tells."""


def place_of(schema: Any, values: Any, loc: tuple[Any, ...], errors: Sequence[Any]) -> Place | None:
    """The place of the error at `loc`, one of `errors`.

    None: the error is about a type of a union that has another shape (mapping or list) than the value, and another type
    of the union has the value's.
    """
    path: list[str] = []
    names: list[str] = []
    members = _members(schema)
    for depth, element in enumerate(loc[:-1] if loc[-1:] == ("[key]",) else loc):
        if len(members) > 1:  # the element names a type of a union
            member = _tagged(members, element)
            if member is None:
                member, shape = _labelled(members, loc[: depth + 1], errors), _shape(values)
                if _shape_of_type(member) is not shape and shape in map(_shape_of_type, members):
                    return None
                if _shape_of_type(member) is not shape or shape is None:
                    return Place(tuple(path), names, " or ".join(map(_words, members)))
            members = [member]
            continue
        names = list(getattr(members[0], "model_fields", ()))
        path.append(str(element))
        members = _members(_below(members[0], element))
        values = _step(values, element)
    return Place(tuple(path), names)


def _members(annotation: Any) -> list[Any]:
    """The types of a union without None, or the type alone; all without Annotated."""
    if typing.get_origin(annotation) is Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return [annotation]
    return [m for each in typing.get_args(annotation) if each is not type(None) for m in _members(each)]


def _tagged(members: Sequence[Any], tag: Any) -> Any:
    """The class with a field whose only value is `tag`; None: there is none."""
    for member in members:
        for field in getattr(member, "model_fields", {}).values():
            if typing.get_origin(field.annotation) is Literal and typing.get_args(field.annotation) == (tag,):
                return member
    return None


def _labelled(members: Sequence[Any], loc: tuple[Any, ...], errors: Sequence[Any]) -> Any:
    """The type whose label ends `loc`: the value fits no type, so there are errors for all of them, in their order."""
    *above, label = loc
    labels = dict.fromkeys(e["loc"][len(above)] for e in errors if [*e["loc"][: len(above)]] == above)
    return members[min(list(labels).index(label), len(members) - 1)]


def _below(annotation: Any, key: Any) -> Any:
    """The type that a type declares for the value of a key or position."""
    fields, arguments = getattr(annotation, "model_fields", None), typing.get_args(annotation)
    if fields is not None:
        return fields[key].annotation if key in fields else None
    return arguments[-1 if typing.get_origin(annotation) is dict else 0] if arguments else None


def _step(values: Any, key: Any) -> Any:
    if isinstance(values, dict):
        return values.get(key)
    return values[key] if isinstance(values, list) and isinstance(key, int) and key < len(values) else None


def _shape(value: Any) -> type | None:
    """dict or list; None: a single value."""
    return next((shape for shape in WORDS if isinstance(value, shape)), None)


def _shape_of_type(annotation: Any) -> type | None:
    """`_shape` of the type's values, as YAML gives them."""
    origin = typing.get_origin(annotation) or annotation
    if origin in (list, tuple):
        return list
    return dict if isinstance(origin, type) and issubclass(origin, dict | BaseModel) else None


def _words(annotation: Any) -> str:
    """What values a type has."""
    shape = _shape_of_type(annotation)
    if shape is not None:
        return WORDS[shape]
    if typing.get_origin(annotation) is Literal:
        return " or ".join(map(repr, typing.get_args(annotation)))
    return getattr(annotation, "__name__", str(annotation))

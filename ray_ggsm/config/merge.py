"""Merges the values of a config file over those of its base."""

import types
import typing
from typing import Annotated, Any, Union

from pydantic import BaseModel, Discriminator

Values = dict[str, Any]
"""A mapping as YAML gives it, before validation."""


def merged(schema: Any, base: Values, own: Values) -> Values:
    """`own` over `base`: mappings are merged key by key, all other values replaced.

    A choice between kinds (a union with a discriminator, such as `mask`) that names its kind is replaced as a whole,
    because the settings of one kind mean nothing to another; so is a value whose type the schema leaves open. `{}` for
    a mapping of free names, such as `labels`, says that there are none.
    """
    result = dict(base)
    for key, value in own.items():
        inner = _annotation(schema, key)
        mappings = isinstance(value, dict) and isinstance(result.get(key), dict)
        if value == {} and typing.get_origin(_plain(inner)) is dict:
            mappings = False
        mappings = mappings and not _is_replaced(inner, value)
        result[key] = merged(inner, result[key], value) if mappings else value
    return result


def _annotation(schema: Any, key: str) -> Any:
    """The type that the schema declares for a key; None: there is no such key."""
    schema = _plain(schema)
    if typing.get_origin(schema) is dict:
        return typing.get_args(schema)[1]
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return None
    field = schema.model_fields.get(key)
    if field is None:
        return None
    return Annotated[field.annotation, field] if field.discriminator else field.annotation


def _is_replaced(annotation: Any, value: Values) -> bool:
    """Whether a mapping of this type is replaced as a whole."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        keys = {_key(getattr(mark, "discriminator", None)) for mark in arguments[1:]}
        return bool(keys & value.keys()) or _is_replaced(arguments[0], value)
    if origin in (Union, types.UnionType):
        return any(_is_replaced(member, value) for member in arguments)
    return annotation is Any


def _key(discriminator: str | Discriminator | None) -> str | None:
    """The key that names the kind; a function that finds it has the key's name."""
    found = discriminator.discriminator if isinstance(discriminator, Discriminator) else discriminator
    return found.__name__ if callable(found) else found


def _plain(annotation: Any) -> Any:
    """The type without Annotated, and without None in a union of one type and None."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return _plain(members[0]) if len(members) == 1 else None
    return annotation

"""Merging the values of a config file over those of its base."""

import types
import typing
from typing import Annotated, Any, Union

from pydantic import BaseModel


def merged(schema: Any, base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`: mappings are merged key by key, all other values replaced.

    A choice between kinds of things (a union with a discriminator, such as `mask`) is replaced as a whole, because the
    settings of one kind mean nothing to another.
    """
    result = dict(base)
    for key, value in own.items():
        inner, is_choice = _below(schema, key)
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(inner, result[key], value) if both and not is_choice else value
    return result


def _below(schema: Any, key: str) -> tuple[Any, bool]:
    """What the schema has below a key, and whether that is a choice between kinds."""
    schema = _plain(schema)
    if typing.get_origin(schema) is dict:
        annotation, is_choice = typing.get_args(schema)[1], _has_discriminator(typing.get_args(schema)[1])
    elif isinstance(schema, type) and issubclass(schema, BaseModel) and key in schema.model_fields:
        field = schema.model_fields[key]
        annotation = field.annotation
        is_choice = field.discriminator is not None or _has_discriminator(annotation)
    else:
        return None, False
    return annotation, is_choice


def _has_discriminator(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated:
        return any(getattr(part, "discriminator", None) for part in typing.get_args(annotation)[1:])
    return False


def _plain(annotation: Any) -> Any:
    """Without Annotated, and without None in a union of one class and None."""
    if typing.get_origin(annotation) is Annotated:
        return _plain(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return _plain(members[0]) if len(members) == 1 else None
    return annotation

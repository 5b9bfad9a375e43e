"""The base class of all configs, and the part of a config that results depend on.

Every config class lives beside the code that reads it. A field that is declared as `Runtime[...]` changes how fast, in
how much memory or where something runs, or whether it stops, but never its result beyond rounding; `digest` leaves it
out.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from ray_ggsm import storage


class InputError(ValueError):
    """The user's input is wrong: one sentence naming the file and the key, column or row. Jobs exit with code 2."""


class NotNow(Exception):  # noqa: N818 (no fault: the same command works later)
    """What a job needs is not there yet, or another process is at it: one sentence. Jobs exit with EXIT_CODE; a
    scheduler tries again."""

    EXIT_CODE = 4


class Config(BaseModel):
    """Base of all config classes: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Record(BaseModel):
    """Base of the JSON files that the package writes and reads again: immutable; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


def _rising(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if list(numbers) != sorted(set(numbers)):
        raise ValueError("give the numbers in rising order, each once")
    return numbers


Rising = Annotated[tuple[PositiveInt, ...], AfterValidator(_rising)]
"""Positive whole numbers in rising order, each once."""
Location = Annotated[str, AfterValidator(storage.check_location)]
"""A location that something is written to, local or s3://."""
AnyConfig = TypeVar("AnyConfig", bound=Config)
T = TypeVar("T")


class _Runtime:
    """Marks a field that results do not depend on."""


RUNTIME = _Runtime()
Runtime = Annotated[T, RUNTIME]
"""`Runtime[int]`: an int that changes how something runs, not its result."""


@dataclass(frozen=True)
class Before:
    """Marks a field whose default is another than what was done before: `Annotated[int, Before(1)] = 2`.

    Digests leave out the value of before instead of the default, so that old results pass for that value and for no
    other.
    """

    value: Any
    """What was done before there was the field, or its default of then."""


def identity(value: Any) -> Any:
    """The plain values of a config that results depend on.

    `Runtime` fields are left out, and so are fields whose identity is that of their default: a new field changes no
    digest as long as its default is what was done before. Where it is not, the field is marked with `Before`. Otherwise
    a default must never change, which tests/test_identity.py checks.
    """
    if isinstance(value, BaseModel):
        plain = {
            name: (identity(getattr(value, name)), field)
            for name, field in type(value).model_fields.items()
            if RUNTIME not in field.metadata
        }
        return {name: own for name, (own, field) in plain.items() if field.is_required() or own != left_out(field)}
    if isinstance(value, dict):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    return to_jsonable_python(value)


def as_before(config: AnyConfig) -> AnyConfig:
    """A config that was written out whole: fields that it does not have were not there then, and mean what was done
    before (`Before`)."""
    fields = type(config).model_fields.items()
    missing = {name: _before(field) for name, field in fields if name not in config.model_fields_set}
    return config.model_copy(update={name: before[0] for name, before in missing.items() if before})


def left_out(field: FieldInfo) -> Any:
    """The identity of the value that digests leave out: of before, if the field is marked, else of the default."""
    before = _before(field)
    return identity(before[0] if before else field.get_default(call_default_factory=True))


def _before(field: FieldInfo) -> list[Any]:
    """The value of the field's `Before`; empty without the mark."""
    return [mark.value for mark in field.metadata if isinstance(mark, Before)]


def digest(*parts: Any) -> str:
    """16 hex digits that identify configs (by `identity`) and plain values, in this order."""
    plain = [identity(part) if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

"""The base class of all configs, and what of a config results depend on.

Every config class lives beside the code that reads it. A field that is declared as `Runtime[...]` changes how fast or
in how much memory something runs, or whether it stops, and never what it gives beyond rounding; `digest` leaves it
out.
"""

import hashlib
import json
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_jsonable_python


class InputError(ValueError):
    """The user's input is wrong: one sentence naming the file and the key, column or row. Jobs exit with code 2."""


class Config(BaseModel):
    """Base of all config classes: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Record(BaseModel):
    """Base of what the package itself writes as JSON and reads again: immutable; a later version may add fields."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


AnyConfig = TypeVar("AnyConfig", bound=Config)
T = TypeVar("T")


class _Runtime:
    """Marks a field that results do not depend on."""


RUNTIME = _Runtime()
Runtime = Annotated[T, RUNTIME]
"""`Runtime[int]`: an int that changes how something runs, not what it gives."""


def identity(value: Any) -> Any:
    """The plain values of a config that results depend on.

    `Runtime` fields are dropped, and fields that have their default: so a new field changes no digest as long as its
    default is what was done before. (A default must therefore never change; tests/test_identity.py keeps watch.)
    """
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: identity(getattr(value, name))
            for name, field in fields.items()
            if RUNTIME not in field.metadata and getattr(value, name) != field.get_default(call_default_factory=True)
        }
    if isinstance(value, dict):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    return to_jsonable_python(value)


def digest(*parts: Any) -> str:
    """16 hex digits that identify configs (by `identity`) and plain values; equal content in equal order is equal."""
    plain = [identity(part) if isinstance(part, BaseModel) else part for part in parts]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]

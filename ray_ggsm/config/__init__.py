"""Strict YAML -> frozen, typed configs."""

from ray_ggsm.config.base import (
    Before,
    Config,
    InputError,
    Location,
    NotNow,
    Record,
    Rising,
    Runtime,
    as_before,
    digest,
    identity,
)
from ray_ggsm.config.load import build, load, to_yaml

__all__ = [
    "Before",
    "Config",
    "InputError",
    "Location",
    "NotNow",
    "Record",
    "Rising",
    "Runtime",
    "as_before",
    "build",
    "digest",
    "identity",
    "load",
    "to_yaml",
]

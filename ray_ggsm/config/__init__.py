"""Strict YAML -> frozen, typed configs."""

from ray_ggsm.config.base import Config, InputError, Location, NotNow, Record, Runtime, digest, identity
from ray_ggsm.config.load import build, load, to_yaml

__all__ = [
    "Config",
    "InputError",
    "Location",
    "NotNow",
    "Record",
    "Runtime",
    "build",
    "digest",
    "identity",
    "load",
    "to_yaml",
]

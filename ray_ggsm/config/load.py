"""Reads a config: strict YAML, `base:` files below it, `--set` changes above it, validation into its schema.

Unknown, duplicate and mistyped keys are errors that name the file, the key's path and the nearest valid name.
"""

import copy
import json
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ray_ggsm import storage
from ray_ggsm.config.base import AnyConfig, InputError
from ray_ggsm.config.merge import Values, merged
from ray_ggsm.config.places import Path
from ray_ggsm.config.sentences import problems

BASE = "base"
"""Key of a config file that names the file it builds on."""


class _StrictLoader(yaml.SafeLoader):
    """`SafeLoader` that reads `1e-4` as a number (YAML 1.1 calls it a string), and keys only where they are text or
    numbers and given once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key_node, deep=True) for key_node, _ in node.value]
        for position, key in enumerate(keys):
            line = node.value[position][0].start_mark.line + 1
            if isinstance(key, bool) or not isinstance(key, str | int | float):
                raise InputError(f"line {line}: key '{key}' is neither text nor a number; put it in quotes")
            if key in keys[:position]:
                raise InputError(f"line {line}: key '{key}' is given twice; keep one of them")
        return super().construct_mapping(node, deep)


class _StrictDumper(yaml.SafeDumper):
    """`SafeDumper` that quotes the texts which `_StrictLoader` would read as numbers."""


_NUMBER = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
for _reader_or_writer in (_StrictLoader, _StrictDumper):
    _reader_or_writer.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def load(
    schema: type[AnyConfig], location: str, overrides: Sequence[str] = (), origins: Sequence[str] | None = None
) -> AnyConfig:
    """Read a YAML file (local or s3://) into `schema`.

    The key `base` names a file, relative to this one, that gives the values which this one leaves out: mappings are
    merged, everything else is replaced, choices between kinds (`mask`, `data.source`) that name their kind as a whole.
    `overrides` are `key.path=value` changes, applied last and in order; errors call them `origins`, by default
    `--set <override>`.

    Raises:
        InputError: a file is missing or no YAML mapping, bases form a circle, or a key is unknown, duplicate, missing
            or mistyped; the sentence names the file or the override in which the key stands.
    """
    origins = [f"--set {override}" for override in overrides] if origins is None else origins
    changes = [_change(override, origin) for override, origin in zip(overrides, origins, strict=True)]
    files = _with_bases(schema, location, ())
    values: Values = {}
    for file in reversed(files):
        values = merged(schema, values, file.values)
    values = copy.deepcopy(values)  # changed below, and the files' own values are still needed
    for change in changes:
        _apply(values, change)
    return _build(schema, values, lambda path: _origin(files, changes, path))


def build(schema: type[AnyConfig], values: Values, origin: str) -> AnyConfig:
    """Validate plain values (as YAML gives them) into `schema`; `origin` names them in errors."""
    return _build(schema, values, lambda path: origin)


def to_yaml(config: BaseModel) -> str:
    """A config with all its defaults as YAML; `load` reads it back."""
    text: str = yaml.dump(config.model_dump(mode="json"), Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)
    return text


@dataclass(frozen=True)
class _File:
    """A config file's own values."""

    location: str
    values: Values

    def depth(self, path: Path) -> int:
        """How many of the path's keys the file has, from the first one on."""
        below: Any = self.values
        for depth, key in enumerate(path):
            entries = below.items() if isinstance(below, dict) else enumerate(below) if isinstance(below, list) else ()
            found = {str(name): value for name, value in entries}
            if key not in found:
                return depth
            below = found[key]
        return len(path)


@dataclass(frozen=True)
class _Change:
    """An override."""

    keys: Path
    value: Any
    origin: str


def _origin(files: Sequence[_File], changes: Sequence[_Change], path: Path) -> str:
    """What gives the value at a path: a change, or the file with most of the path's keys and the changes below it."""
    whole = [change.origin for change in changes if change.keys == path[: len(change.keys)]]
    if whole:
        return whole[-1]
    file = max(files, key=lambda file: file.depth(path)).location
    below = dict.fromkeys(change.origin for change in changes if path and change.keys[: len(path)] == path)
    return f"{file} with {', '.join(below)}" if below else file


def _build(schema: type[AnyConfig], values: Values, origin: Callable[[Path], str]) -> AnyConfig:
    try:
        # JSON mode keeps scalars strict and still lets lists become tuples and ISO strings dates
        return schema.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        lines = [f"{origin(problem.path)}: {problem.sentence}" for problem in problems(schema, values, error)]
        raise InputError("\n".join(lines)) from None


def _with_bases(schema: type[AnyConfig], location: str, above: tuple[str, ...]) -> list[_File]:
    """The file and its bases, each before its own base."""
    if storage.absolute(location) in map(storage.absolute, above):
        raise InputError(f"{above[0]}: its bases form a circle: {' -> '.join([*above, location])}")
    values = _mapping(location)
    if BASE not in values or BASE in schema.model_fields:
        return [_File(location, values)]
    base = values.pop(BASE)
    if not isinstance(base, str):
        raise InputError(f"{location}: {BASE}: expected the name of a config file, found {base!r}")
    bases = _with_bases(schema, storage.beside(location, base), (*above, location))
    return [_File(location, values), *bases]


def _mapping(location: str) -> Values:
    try:
        text = storage.read_text(location)
    except FileNotFoundError as error:
        raise InputError(f"{location}: no such config file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{location}: cannot be read as a UTF-8 text file ({error})") from error
    values = _parse(text, location)
    if not isinstance(values, dict):
        raise InputError(f"{location}: expected a mapping of keys to values, found {type(values).__name__}")
    return values


def _parse(text: str, origin: str) -> Any:
    try:
        values = yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no such date, and the like
        raise InputError(f"{origin}: {' '.join(str(error).split())}") from None
    try:
        json.dumps(values, default=str)
    except ValueError:
        raise InputError(f"{origin}: a value contains itself; an alias (*) must stand outside its anchor (&)") from None
    return values


def _change(override: str, origin: str) -> _Change:
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"{origin}: expected key.path=value")
    return _Change(tuple(keys), _parse(value, origin), origin)


def _apply(values: Values, change: _Change) -> None:
    target: Any = values
    *above, last = change.keys
    for depth, key in enumerate(above, 1):
        target = target[_index(target, key, change)] if isinstance(target, list) else target.setdefault(key, {})
        if not isinstance(target, dict | list):
            keys = ".".join(above[:depth])
            raise InputError(f"{change.origin}: '{keys}' is a value, it has no keys below it")
    target[_index(target, last, change) if isinstance(target, list) else last] = change.value


def _index(values: list[Any], key: str, change: _Change) -> int:
    if not key.isdigit() or int(key) >= len(values):
        raise InputError(f"{change.origin}: {'.'.join(change.keys)}: '{key}' is no position in a list of {len(values)}")
    return int(key)

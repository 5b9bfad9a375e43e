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
from ray_ggsm.config.sentences import Path, problems

BASE = "base"
"""Key of a config file that names the file it builds on."""


class _StrictLoader(yaml.SafeLoader):
    """`SafeLoader` that refuses duplicate keys and reads `1e-4` as a number (YAML 1.1 calls it a string)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key_node, deep=True) for key_node, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                line = node.value[position][0].start_mark.line + 1
                raise InputError(f"line {line}: key '{key}' is given twice; keep one of them")
        return super().construct_mapping(node, deep)


class _StrictDumper(yaml.SafeDumper):
    """`SafeDumper` that quotes the texts which `_StrictLoader` would read as numbers."""


_NUMBER = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
for _reader_or_writer in (_StrictLoader, _StrictDumper):
    _reader_or_writer.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def load(schema: type[AnyConfig], location: str, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a YAML file (local or s3://) into `schema`.

    The key `base` names a file, relative to this one, that gives the values which this one leaves out: mappings are
    merged, everything else is replaced, choices between kinds (`mask`, `data.source`) as a whole. `overrides` are
    `key.path=value` changes, applied last and in order.

    Raises:
        InputError: a file is missing or no YAML mapping, bases form a circle, or a key is unknown, duplicate, missing
            or mistyped; the sentence names the file in which the key stands.
    """
    files = _with_bases(schema, location, ())
    values: Values = {}
    for file in reversed(files):
        values = merged(schema, values, file.values)
    values = copy.deepcopy(values)  # changed below, and the files' own values are still needed
    for override in overrides:
        _override(values, override)
    changed = [tuple(_keys(override)) for override in overrides]
    return _build(schema, values, lambda path: _origin(files, changed, path))


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


def _origin(files: Sequence[_File], changed: Sequence[Path], path: Path) -> str:
    """The file that gives the value at a path, or as much of the path as any; the first file for changed values."""
    if any(keys == path[: len(keys)] for keys in changed):
        return files[0].location
    return max(files, key=lambda file: file.depth(path)).location


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
        return yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, InputError) as error:
        raise InputError(f"{origin}: {' '.join(str(error).split())}") from None


def _keys(override: str) -> list[str]:
    path, equals, _ = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {override}: expected key.path=value")
    return keys


def _override(values: Values, override: str) -> None:
    keys = _keys(override)
    target: Any = values
    for depth, key in enumerate(keys[:-1]):
        target = target[_index(target, key, override)] if isinstance(target, list) else target.setdefault(key, {})
        if not isinstance(target, dict | list):
            raise InputError(f"--set {override}: '{'.'.join(keys[: depth + 1])}' is a value, it has no keys below it")
    last = _index(target, keys[-1], override) if isinstance(target, list) else keys[-1]
    target[last] = _parse(override.partition("=")[2], f"--set {override}")


def _index(values: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(values):
        raise InputError(f"--set {override}: '{key}' is no position in a list of {len(values)}")
    return int(key)

"""Reading a config: strict YAML, `base:` files below it, `--set` changes above it, validation into its schema.

Unknown, duplicate and mistyped keys are errors that name the file, the key's path and the nearest valid name.
"""

import json
import re
from collections.abc import Hashable, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ray_ggsm import storage
from ray_ggsm.config.base import AnyConfig, InputError
from ray_ggsm.config.merge import merged
from ray_ggsm.config.sentences import sentences

BASE = "base"
"""Key of a config file that names the file it is built upon."""


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
    """Read a YAML file (local or s3://) into `schema`.

    The key `base` names a file, relative to this one, whose values hold where this one says nothing: mappings are
    merged, everything else is replaced, choices between kinds (`mask`, `data.source`) as a whole. `overrides` are
    `key.path=value` changes, applied last and in order.

    Raises:
        InputError: a file is missing or no YAML mapping, bases form a circle, or a key is unknown, duplicate, missing
            or mistyped.
    """
    values, files = _with_bases(schema, location, ())
    for override in overrides:
        _override(values, override)
    return build(schema, values, f"{location} (on {', '.join(files[1:])})" if len(files) > 1 else location)


def build(schema: type[AnyConfig], values: dict[str, Any], origin: str) -> AnyConfig:
    """Validate plain values (as YAML gives them) into `schema`; `origin` names them in errors."""
    try:
        # JSON mode keeps scalars strict and still lets lists become tuples and ISO strings dates
        return schema.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise InputError("\n".join(f"{origin}: {line}" for line in sentences(schema, values, error))) from None


def to_yaml(config: BaseModel) -> str:
    """A config with all its defaults as YAML; `load` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _with_bases(schema: type[AnyConfig], location: str, above: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    """The values of a file merged over those of its bases, and all these files."""
    if location in above:
        raise InputError(f"{above[0]}: its bases form a circle: {' -> '.join([*above, location])}")
    values = _mapping(location)
    if BASE not in values or BASE in schema.model_fields:
        return values, [location]
    base = values.pop(BASE)
    if not isinstance(base, str):
        raise InputError(f"{location}: {BASE}: expected the name of a config file, found {base!r}")
    below, files = _with_bases(schema, storage.beside(location, base), (*above, location))
    return merged(schema, below, values), [location, *files]


def _mapping(location: str) -> dict[str, Any]:
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

"""JSON lines, plain, gzip or zstd."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.part import BadLine, Part, opened, registered


class JsonLines(Part):
    """A file with one JSON object per line. Numbers stay as they are written; lists and objects are JSON texts."""

    def __init__(self, file: str, table: TableConfig, compression: str) -> None:
        super().__init__(file, table)
        self.compression = compression

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The keys of all objects; all are text."""
        found: dict[str, object] = {}
        for _, line in self._lines():
            try:
                values = _decoded(line, _KEYS)
            except (ValueError, RecursionError):
                continue
            if isinstance(values, dict):
                found.update(values)
        return {key: "VARCHAR" for key in found if _is_text(key)}

    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """A table of Arrow batches; its records are lines."""
        nulls = {None, "", *self.table.nulls}
        records = (
            (line, [None if (value := values.get(column)) in nulls else value for column in columns])
            for line, values in self._objects(bad)
        )
        with registered(connection, list(columns), records) as name:
            yield name

    def _objects(self, bad: list[BadLine] | None) -> Iterator[tuple[int, dict[str, str | None]]]:
        for number, line in self._lines():
            try:
                values = _decoded(line, _VALUES)
                if not isinstance(values, dict):
                    raise ValueError("no JSON object")
                "".join(values).encode()
                found = {key: _as_text(value) for key, value in values.items()}
            except (ValueError, RecursionError) as error:
                if bad is not None:
                    bad.append((number, f"JSON: {error}"))
                continue
            yield number, found

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank, with their numbers."""
        with opened(self.file, self.compression) as stream:
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line


class _Number(str):
    """A number of a JSON text, as it is written."""


def _constant(name: str) -> str | None:
    return None if name == "NaN" else _Number(name)


_KEYS = json.JSONDecoder(parse_int=str)
"""Reads lines for their keys: faster. `str` takes whole numbers of any length."""
_VALUES = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_constant)


def _decoded(line: bytes, decoder: json.JSONDecoder) -> Any:
    """What `json.loads` gives; the decoder is made once, not once per line."""
    return decoder.decode(line.decode(json.detect_encoding(line), "surrogatepass"))


def _is_text(value: str) -> bool:
    """Whether a text has no half of a surrogate pair, which no column and no file can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    found = str(value) if isinstance(value, str) else _dumped(value)
    found.encode()  # half of a surrogate pair is no text
    return found


def _dumped(value: Any) -> str:
    return json.dumps(_numbers(value), ensure_ascii=False, separators=(",", ":"))


def _numbers(value: Any) -> Any:
    """The numbers of a list or object as numbers again."""
    if isinstance(value, _Number):
        return json.loads(value)
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return {key: _numbers(each) for key, each in value.items()} if isinstance(value, dict) else value

"""JSON lines, plain, gzip or zstd."""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.part import SAMPLE, BadLine, Part, opened, registered


class JsonLines(Part):
    """A file with one JSON object per line. Numbers stay as they are written; lists and objects are JSON texts."""

    def __init__(self, file: str, table: TableConfig, compression: str) -> None:
        super().__init__(file, table)
        self.compression = compression

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The keys of the first objects; all are text."""
        found: dict[str, str] = {}
        for _, values in itertools.islice(self._objects(None), SAMPLE):
            found.update(dict.fromkeys(values, "VARCHAR"))
        return found

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
        with opened(self.file, self.compression) as stream:
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if not line.strip():
                    continue
                try:
                    values = json.loads(line, parse_float=_Number, parse_int=_Number, parse_constant=_constant)
                    if not isinstance(values, dict):
                        raise ValueError("no JSON object")
                    found = {key: _as_text(value) for key, value in values.items()}
                except (ValueError, RecursionError) as error:
                    if bad is not None:
                        bad.append((number, f"JSON: {error}"))
                    continue
                yield number, found


class _Number(str):
    """A number of a JSON text, as it is written."""


def _constant(name: str) -> str | None:
    return None if name == "NaN" else _Number(name)


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair is no text
        return str(value)
    return json.dumps(_numbers(value), ensure_ascii=False, separators=(",", ":"))


def _numbers(value: Any) -> Any:
    """The numbers of a list or object as numbers again."""
    if isinstance(value, _Number):
        return json.loads(value)
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return {key: _numbers(each) for key, each in value.items()} if isinstance(value, dict) else value

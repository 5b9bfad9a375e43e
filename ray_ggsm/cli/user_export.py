"""One user's JSON file: what a table, rows and an event store have about this person, and about nobody else."""

import base64
import datetime as dt
import math
import os
from collections.abc import Iterable, Mapping

import pyarrow as pa
from pydantic import JsonValue

from ray_ggsm import storage
from ray_ggsm.data.user_records import store_records, user_rows
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.user_history import UserHistory, user_history


def export_user(
    table: EmbeddingTable, user: str, pseudonym: str | None, output: str, rows: str | None, store: str | None
) -> tuple[UserHistory, int]:
    """Write the file, readable by its owner only where it is local.

    Args:
        table: the embedding table, opened with the key if there is one.
        user: the id.
        pseudonym: the user's name in data with pseudonyms; None: there is none.
        output: the file.
        rows: pattern of Parquet files of user rows; None: there are none.
        store: location of an event store; None: there is none.

    Returns:
        What the table has, and the number of rows and records in the file.

    Raises:
        InputError: a place has no such data, or they are damaged.
    """
    names = [user] if pseudonym is None else [user, pseudonym]
    found = user_history(table, names)
    content: dict[str, JsonValue] = {"user": user}
    if pseudonym is not None:
        content["pseudonym"] = pseudonym
    content["table"] = {
        "location": table.location,
        "forgotten": found.forgotten,
        "versions": [
            {
                "version": commit.version,
                "committed": commit.timestamp.isoformat(),
                "operation": commit.operation,
                "rows": _records(of_version),
            }
            for commit, of_version in found.versions
        ],
        "unreadable_versions": list(found.unreadable),
        "dead_letters": _by_name(found.dead_letters),
        "held": {"versions": list(found.held_versions), "dead_letters": list(found.held_files)},
    }
    tables = [of_version for _, of_version in (*found.versions, *found.dead_letters)]
    if rows is not None:
        files = user_rows(rows, names)
        content["rows"] = {"pattern": rows, "files": _by_name(files.items())}
        tables += files.values()
    if store is not None:
        records = store_records(store, names)
        content["store"] = {"location": store, "tables": _by_name(records.items())}
        tables += records.values()
    _write(output, content)
    return found, sum(map(len, tables))


def _by_name(tables: Iterable[tuple[str, pa.Table]]) -> dict[str, JsonValue]:
    return {name: _records(rows) for name, rows in tables}


def _records(table: pa.Table) -> list[JsonValue]:
    return [plain(record) for record in table.to_pylist()]


def plain(value: object) -> JsonValue:
    """A value of an Arrow table as JSON: times are ISO texts, decimals texts, bytes base64, NaN and infinity null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if value is None or isinstance(value, bool | int | str):
        return value
    return value.isoformat() if isinstance(value, dt.date | dt.time) else str(value)


def _write(output: str, content: dict[str, JsonValue]) -> None:
    before = os.umask(0o077)
    try:
        storage.write_json(output, content)
    finally:
        os.umask(before)

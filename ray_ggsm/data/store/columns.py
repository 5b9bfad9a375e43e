"""The columns of a store's tables: those of the source under their names, and the store's own, marked `_store_`.

The user column is text and the time column an instant; all other columns are as they stand in the files, so texts of
CSV and JSON lines stay texts. What a config makes of them is decided when rows are made.
"""

from collections.abc import Mapping
from functools import cache

import duckdb
import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.data.sources.column_types import FLOATING, INSTANT, NARROW, NOTHING, WHOLE

PREFIX = "_store_"
BUCKET = "_store_bucket"
"""Partition: it stands in the log, not in the files."""
FILE, RECORD = "_store_file", "_store_record"
"""The source's file, and the number of the record in it."""
SEQUENCE = "_store_sequence"
"""Number of the manifest that brought the row."""
DAY = "_store_day"
"""Day that the row's file belongs to, as a text; null: it came with all of time."""
TIME_TEXT = "_store_time_text"
"""The time as it stands in the file, where that is no instant with a time zone."""
OWN = {FILE: "VARCHAR", RECORD: "BIGINT", SEQUENCE: "BIGINT", DAY: "VARCHAR", TIME_TEXT: "VARCHAR"}
"""Column -> DuckDB type."""
REJECTED = "rejected"
"""The store's table of records that cannot be used; no source table has this name."""
REJECTED_COLUMNS = {
    "table": "VARCHAR", "user_id": "VARCHAR", "source": "VARCHAR", "reason": "VARCHAR", "detail": "VARCHAR"
}  # fmt: skip
PLAIN = ("BIGINT", "BOOLEAN", "VARCHAR", "DATE", "BLOB", "TIMESTAMP", INSTANT, *FLOATING)


def stored_type(where: str, column: str, kinds: Mapping[str, str]) -> str:
    """The type that a column has in the store.

    Args:
        where: config key of the table, for errors.
        column: its name.
        kinds: DuckDB type -> a file that has it.

    Raises:
        InputError: Delta Lake has no such type, or the files do not agree.
    """
    found = {_stored(kind): file for kind, file in kinds.items() if kind != NOTHING}
    if len(found) > 1 and all(kind in WHOLE or kind in FLOATING for kind in found):
        found = {"DOUBLE": next(iter(found.values()))}
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise InputError(
            f"{where}.types: column '{column}' is {one} in {first} and {other} in {second}; say what it shall be, for "
            f"example types: {{{column}: varchar}}"
        )
    kind, file = next(iter(found.items()), ("VARCHAR", ""))
    if not (kind in PLAIN or kind.startswith(("DECIMAL", "STRUCT")) or kind.endswith("[]")):
        raise InputError(
            f"{where}.types: column '{column}' of {file} is {kind}, which Delta Lake does not know; say what it shall "
            f"be, for example types: {{{column}: varchar}}, or leave it out of `columns`"
        )
    return kind


def _stored(kind: str) -> str:
    if kind in NARROW:
        return "BIGINT"
    if kind in ("HUGEINT", "UBIGINT"):
        return "DECIMAL(38,0)"
    return "VARCHAR" if kind == "UUID" else kind


def arrow_schema(columns: Mapping[str, str]) -> pa.Schema:
    """The Arrow schema of columns with DuckDB types."""
    return pa.schema([pa.field(name, _arrow_type(kind)) for name, kind in columns.items()])


@cache
def _arrow_type(kind: str) -> pa.DataType:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(f"SELECT NULL::{kind} AS x").to_arrow_table().schema.field(0).type

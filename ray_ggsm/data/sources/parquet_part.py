"""Parquet files, of any writer."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.source_config import TableConfig
from ray_ggsm.data.sources.part import RECORD, BadLine, Part
from ray_ggsm.data.sql import own, quote


class Parquet(Part):
    """A Parquet file; its types are those of the file."""

    unit = "row"

    def __init__(self, file: str, table: TableConfig) -> None:
        super().__init__(file, table)
        filesystem, path = storage.arrow_filesystem(file)
        try:
            self.dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning=None)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: expected a Parquet file ({' '.join(str(error).split())})") from None

    def untyped(self, columns: Mapping[str, str], partitions: Collection[str]) -> set[str]:
        """None: the file's schema gives types."""
        return set()

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The columns of the file's schema."""
        schema = self.dataset.schema
        if len({name.lower() for name in schema.names}) < len(schema.names):
            raise InputError(f"{self.file}: two columns have the same name, upper and lower case aside")
        empty = pa.schema([(field.name, _plain(field.type)) for field in schema]).empty_table()
        connection.register(own("empty"), empty)
        described = connection.execute(f"DESCRIBE {quote(own('empty'))}").fetchall()
        connection.unregister(own("empty"))
        nothing = {field.name: "NULL" for field in schema if pa.types.is_null(field.type)}
        return {row[0]: row[1] for row in described} | nothing

    @contextmanager
    def rows(
        self, connection: duckdb.DuckDBPyConnection, columns: Sequence[str], bad: list[BadLine] | None = None
    ) -> Iterator[str]:
        """A table of Arrow batches; its records are rows."""
        fields = [pa.field(c, _plain(self.dataset.schema.field(c).type)) for c in columns]
        schema = pa.schema([*fields, pa.field(RECORD, pa.int64())])

        def batches() -> Iterator[pa.RecordBatch]:
            start = 1
            for batch in self.dataset.scanner(columns={c: ds.field(c) for c in columns}).to_batches():
                arrays = [_cast(batch.column(i), field.type) for i, field in enumerate(fields)]
                records = pa.array(np.arange(start, start + batch.num_rows))
                start += batch.num_rows
                yield pa.record_batch([*arrays, records], schema=schema)

        connection.register(own("part"), pa.RecordBatchReader.from_batches(schema, batches()))
        try:
            yield quote(own("part"))
        finally:
            connection.unregister(own("part"))


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that DuckDB gets for a column of this type."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    if kind in (pa.string_view(), pa.large_string()):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind, safe=False)

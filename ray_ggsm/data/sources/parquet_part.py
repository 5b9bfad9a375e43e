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
from ray_ggsm.data.sources.part import RECORD, BadLine, Part, streamed
from ray_ggsm.data.sql import own, quote
from ray_ggsm.model.ragged import list_lengths


class Parquet(Part):
    """A Parquet file; its types are those of the file."""

    unit = "row"

    def __init__(self, file: str, table: TableConfig) -> None:
        super().__init__(file, table)
        filesystem, path = storage.arrow_filesystem(file)
        try:
            self.dataset = ds.dataset(path, filesystem=filesystem, format="parquet", partitioning=None)
        except (pa.ArrowInvalid, OSError) as error:
            if storage.refused(error) or storage.passing(error):
                raise
            raise InputError(f"{file}: expected a Parquet file ({' '.join(str(error).split())})") from None

    @property
    def records(self) -> int | None:
        """The rows of the file, where they hold lists of events."""
        return self.dataset.count_rows() if self.table.nested else None

    def untyped(self, columns: Mapping[str, str], partitions: Collection[str]) -> set[str]:
        """None: the file's schema gives types."""
        return set()

    def columns(self, connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
        """The columns of the file's schema."""
        schema = self._schema
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
        """A table of Arrow batches; its records are rows of the file, each with one or many events."""
        fields = [pa.field(c, _plain(self._schema.field(c).type)) for c in columns]
        schema = pa.schema([*fields, pa.field(RECORD, pa.int64())])

        def batches() -> Iterator[pa.RecordBatch]:
            start = 1
            read = dict.fromkeys([*columns, *self.table.nested])
            for batch in self.dataset.scanner(columns={c: ds.field(c) for c in read}).to_batches():
                record_n = np.arange(start, start + batch.num_rows)
                start += batch.num_rows
                if self.table.nested:
                    batch, record_n = _unnested(batch, record_n, self.table.nested, bad)
                arrays = [_cast(batch.column(i), field.type) for i, field in enumerate(fields)]
                yield pa.record_batch([*arrays, pa.array(record_n)], schema=schema)

        with streamed(connection, schema, batches()) as name:
            yield name

    @property
    def _schema(self) -> pa.Schema:
        """The columns of the table's rows: of lists that are one item per event, the type of an item.

        Raises:
            InputError: `nested` names a column that holds no lists.
        """
        schema = self.dataset.schema
        for name in self.table.nested:
            i = schema.get_field_index(name)
            if i < 0 or not _is_list(schema.field(i).type):
                there = f"is {schema.field(i).type}" if i >= 0 else "is not there"
                raise InputError(f"{self.file}: `nested` names the column '{name}', which {there}; expected lists")
            schema = schema.set(i, pa.field(name, schema.field(i).type.value_type))
        return schema


def _unnested(
    batch: pa.RecordBatch, record_n: np.ndarray, nested: Sequence[str], bad: list[BadLine] | None
) -> tuple[pa.RecordBatch, np.ndarray]:
    """One row per item of the nested columns, and the record of each."""
    lengths_cn = np.stack([list_lengths(batch.column(name)) for name in nested])
    differ_n = (lengths_cn != lengths_cn[0]).any(axis=0)
    if bad is not None:
        bad += [
            (
                int(record),
                f"lists of different lengths: {', '.join(f'{c} {n}' for c, n in zip(nested, row, strict=True))}",
            )
            for record, row in zip(record_n[differ_n], lengths_cn.T[differ_n], strict=True)
        ]
    batch, record_n, length_n = batch.filter(pa.array(~differ_n)), record_n[~differ_n], lengths_cn[0, ~differ_n]
    row_e = np.repeat(np.arange(len(record_n)), length_n)
    columns = {
        name: batch.column(name).flatten() if name in nested else batch.column(name).take(pa.array(row_e))
        for name in batch.schema.names
    }
    return pa.RecordBatch.from_pydict(columns), record_n[row_e]


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type that DuckDB gets for a column of this type."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if _is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if kind in (pa.string_view(), pa.large_string()):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    return kind


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return array if array.type == kind else array.cast(kind, safe=False)

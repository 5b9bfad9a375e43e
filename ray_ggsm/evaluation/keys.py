"""The two keys of label tables and vector tables: a user, and the moment at which the user's history ends.

`user_id` is a string and `as_of` a timestamp with time zone; together they identify a row.
"""

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import InputError

KEYS = ("user_id", "as_of")
AS_OF = pa.timestamp("us", tz="UTC")
"""Type of `as_of` after `with_keys`."""


def with_keys(table: pa.Table, origin: str) -> pa.Table:
    """The table with `user_id` as large_string and `as_of` in UTC microseconds.

    Raises:
        InputError: a key column is missing, mistyped or has nulls. `origin` names the table in the sentence.
    """
    for name in KEYS:
        if name not in table.column_names:
            found = ", ".join(table.column_names) or "no columns"
            raise InputError(f"{origin}: column '{name}' is missing; found {found}")
        if nulls := table[name].null_count:
            raise InputError(f"{origin}: column '{name}' is null in {nulls} rows; every row needs a key")
    user_type, as_of_type = table.schema.field("user_id").type, table.schema.field("as_of").type
    if not (pa.types.is_string(user_type) or pa.types.is_large_string(user_type)):
        raise InputError(f"{origin}: column 'user_id' must be a string, found {user_type}")
    if not pa.types.is_timestamp(as_of_type) or as_of_type.tz is None:
        raise InputError(f"{origin}: column 'as_of' must be a timestamp with time zone UTC, found {as_of_type}")
    table = table.set_column(table.column_names.index("as_of"), "as_of", table["as_of"].cast(AS_OF, safe=False))
    return table.set_column(table.column_names.index("user_id"), "user_id", table["user_id"].cast(pa.large_string()))


def unique_keys(table: pa.Table, origin: str) -> pa.Array:
    """One string per row that identifies (user_id, as_of).

    Raises:
        InputError: two rows have the same keys.
    """
    instants = table["as_of"].cast(pa.int64()).cast(pa.large_string())
    keys = pc.binary_join_element_wise(instants, table["user_id"], pa.scalar("|", pa.large_string())).combine_chunks()
    repeated = len(keys) - pc.count_distinct(keys).as_py()
    if repeated:
        counts = pc.value_counts(keys)
        first = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0]
        name = row_name(table, pc.index(keys, first).as_py())
        raise InputError(
            f"{origin}: {name} is repeated ({repeated} repeated rows in all); keep one row per (user_id, as_of)"
        )
    return keys


def row_name(table: pa.Table, row: int) -> str:
    """A row as errors show it: by its position, from 0 on, and moment; errors stand in logs, which hold no ids."""
    return f"row {row} (as_of {table['as_of'][row].as_py().isoformat()})"

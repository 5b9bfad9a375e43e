"""What files of user rows and an event store have about one user."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.store.bucket_files import read_files
from ray_ggsm.data.store.columns import REJECTED
from ray_ggsm.data.store.layout import require_layout, table_place
from ray_ggsm.data.store.log import files
from ray_ggsm.data.store.manifest import read_state
from ray_ggsm.data.store.seal import schema_of
from ray_ggsm.hashing import bucket_of


def user_rows(pattern: str, names: Collection[str]) -> dict[str, pa.Table]:
    """The rows of a user in Parquet files of user rows: file -> its rows, without files that have none.

    Args:
        pattern: the files, `*` stands for any part of a name.
        names: what the user may be called in them: the id, the pseudonym.

    Raises:
        InputError: there is no such file, or one has no user_id or cannot be read.
    """
    found = {}
    locations = storage.glob(pattern)
    if not locations:
        raise InputError(f"{pattern}: no file matches; expected Parquet files of user rows")
    for file in locations:
        fs, path = storage.arrow_filesystem(file)
        try:
            dataset = ds.dataset(path, filesystem=fs, format="parquet")
            if "user_id" not in dataset.schema.names:
                raise InputError(f"{file}: expected a column user_id")
            rows = dataset.to_table(filter=_is_one_of(dataset.schema.field("user_id").type, names))
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            raise InputError(f"{file}: expected a Parquet file of user rows ({type(error).__name__})") from None
        if len(rows):
            found[file] = rows
    return found


def _is_one_of(kind: pa.DataType, names: Collection[str]) -> ds.Expression:
    """The condition on `user_id`; without a cast, statistics tell which row groups need not be read."""
    if pa.types.is_dictionary(kind):
        return ds.field("user_id").cast(pa.string()).isin(pa.array(names, pa.string()))
    return ds.field("user_id").isin(pa.array(names, kind))


def store_records(location: str, names: Collection[str]) -> dict[str, pa.Table]:
    """The records of a user in an event store as of its newest manifest: table -> records, without tables that have
    none; `rejected` is the table of those that cannot be used.

    Raises:
        InputError: there is no store, or it is damaged.
    """
    buckets = set(bucket_of(pa.array(names, pa.string()), require_layout(location).buckets).tolist())
    found = {}
    for name, table in read_state(location).tables.items():
        if table.version < 0:
            continue
        place, schema = table_place(location, name), schema_of(name, table)
        column = "user_id" if name == REJECTED else table.user
        parts = [schema.empty_table()]
        for file in files(place, table.version, table.time):
            if file.bucket in buckets:
                rows = read_files(place, [file], schema)
                users = rows[column].cast(pa.string())
                parts.append(rows.filter(pc.is_in(users, value_set=pa.array(names, pa.string()))))
        if len(records := pa.concat_tables(parts)):
            found[name] = records
    return found

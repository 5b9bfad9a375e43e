"""Reading prepared user rows."""

import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage


def tabular_rows(location: str) -> pa.Table:
    """The keys and hand-crafted features of the rows at a location."""
    return _read(location, ["user_id", "as_of", "tabular"])


def row_keys(location: str) -> pa.Table:
    """The keys of the rows at a location."""
    return _read(location, ["user_id", "as_of"])


def _read(location: str, columns: list[str]) -> pa.Table:
    fs, path = storage.arrow_filesystem(location)
    return pq.read_table(path, columns=columns, filesystem=fs)

"""Reading prepared user rows."""

import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage


def tabular_rows(location: str) -> pa.Table:
    """The keys and hand-crafted features of the rows at a location."""
    fs, path = storage.arrow_filesystem(location)
    return pq.read_table(path, columns=["user_id", "as_of", "tabular"], filesystem=fs)

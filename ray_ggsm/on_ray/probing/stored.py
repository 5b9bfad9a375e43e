"""Vectors as a data file of a table holds them. Legend: N rows, D width."""

import datetime as dt
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.evaluation.dimensions import Precision
from ray_ggsm.tables import scan
from ray_ggsm.tables.files import ELEMENT, DataFileConfig, write_bucket
from ray_ggsm.tables.schema import matrix, rows_to_table


def stored(vector_ND: np.ndarray, precision: Precision) -> tuple[np.ndarray, float]:
    """The vectors (N, D) float32 as a reader gets them, and the bytes of each in the file's column."""
    N = len(vector_ND)
    users = pa.array([f"{n:012}" for n in range(N)])  # as they are sorted in the file
    as_of = pa.array([dt.datetime(2000, 1, 1, tzinfo=dt.UTC)] * N, pa.timestamp("us", "UTC"))
    table = rows_to_table(users, as_of, "", np.zeros(N), np.zeros(N), vector_ND, "", "stored")
    with tempfile.TemporaryDirectory() as place:
        file = storage.join(place, write_bucket(table, place, "stored", 0, DataFileConfig(precision=precision)).path)
        read_ND = matrix(scan.read_files([file], ["embedding"])["embedding"])
        footer = pq.read_metadata(file)
    groups = [footer.row_group(n) for n in range(footer.num_row_groups)]
    columns = [group.column(k) for group in groups for k in range(group.num_columns)]
    size = sum(column.total_compressed_size for column in columns if column.path_in_schema == ELEMENT)
    return read_ND, size / N

"""Row groups of prepared rows, with their labels beside them where these are asked for."""

from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError

PREFIX = "label."
"""Of the names of columns with labels."""
KEYS = ["user_id", "as_of"]


def read_group(file: str, group: int, labels: str | None) -> pa.Table:
    """The rows of a row group; with the columns `label.NAME`, if `labels` is the directory of the split's labels.

    Raises:
        InputError: the labels are not those of the rows.
    """
    with open_parquet(file) as parquet:
        rows = parquet.read_row_group(group)
        first = sum(parquet.metadata.row_group(i).num_rows for i in range(group))
    if labels is None:
        return rows
    location = storage.join(labels, file.rsplit("/", 1)[-1])
    answers = _labels(location).slice(first, len(rows))
    if len(answers) != len(rows) or any(not rows[key].cast(answers[key].type).equals(answers[key]) for key in KEYS):
        raise InputError(f"{location}: these are not the labels of the rows in {file}; prepare them again")
    for name in answers.column_names:
        if name not in KEYS:
            rows = rows.append_column(PREFIX + name, answers[name])
    return rows


def open_parquet(file: str) -> pq.ParquetFile:
    """A Parquet file, local or s3://."""
    fs, path = storage.arrow_filesystem(file)
    return pq.ParquetFile(path, filesystem=fs)


@lru_cache(maxsize=4)  # of the next row groups of a file
def _labels(location: str) -> pa.Table:
    with open_parquet(location) as parquet:
        return parquet.read()

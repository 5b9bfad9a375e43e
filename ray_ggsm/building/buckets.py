"""The data files of a new version: filled bucket by bucket from staged files and the version before.

A bucket's file holds its staged rows, sorted by user; rows that were not encoded again come from the version before. A
bucket in which nothing changed keeps its file. Data files get their final names at once, so an interrupted run does not
write them again.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.fingerprints import user_keys
from ray_ggsm.config import InputError
from ray_ggsm.data.chunks import THREADS, read_footer
from ray_ggsm.tables import scan
from ray_ggsm.tables.checks import FileCheck, carried, check_file
from ray_ggsm.tables.files import DataFile, DataFileConfig, bucket_path, describe, spacing_of, write_bucket
from ray_ggsm.tables.schema import SCHEMA

Part = tuple[str, int]
"""A staged file and one of its row groups."""


@dataclass(frozen=True)
class Bucket:
    """One bucket of a new version, and the places of its rows."""

    number: int
    """Number of the bucket."""
    parts: Sequence[Part]
    """Its staged rows."""
    previous: Sequence[DataFile] | None
    """Its files in the version before; None: there is no such version."""


@dataclass(frozen=True)
class Filled:
    """One bucket of the new version, written."""

    bucket: int
    """Number of the bucket."""
    file: DataFile | None
    """Its new file; None: it has no rows now, or it keeps its file."""
    kept: bool
    """Whether nothing changed, and the file of the version before stays."""
    encoded: int
    """Rows whose vectors this run computed."""
    departed: int
    """Rows of the version before whose users have no vector now: they left the input, or their row is rejected."""


@dataclass(frozen=True)
class StagedVersion:
    """A version that is written and not published."""

    buckets: tuple[Filled, ...]
    """All buckets that have rows now or had some in the version before."""
    check: FileCheck
    """Merged checks of their files."""

    @property
    def unchanged(self) -> bool:
        """Whether it equals the version before."""
        return all(bucket.kept for bucket in self.buckets)


def parts_of_buckets(files: Sequence[str]) -> dict[int, list[Part]]:
    """The staged rows of each bucket, by its number."""

    def read(file: str) -> list[tuple[int, Part]]:
        footer = read_footer(file)
        column = footer.schema.names.index("bucket")
        groups = range(footer.num_row_groups)
        return [(int(footer.row_group(g).column(column).statistics.min), (file, g)) for g in groups]

    parts: dict[int, list[Part]] = defaultdict(list)
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(read, files):
            for bucket, part in found:
                parts[bucket].append(part)
    return parts


def fill_bucket(
    build: Build, bucket: Bucket, table: str, config: DataFileConfig, *, one_row_each: bool
) -> tuple[Filled, FileCheck]:
    """Write a bucket's file below the location `table`, or find that the bucket stays as it is.

    `one_row_each` refuses a user with several rows of one instruction.

    Raises:
        InputError: a user is refused.
    """
    rows, departed, spacing = _staged(bucket.parts), 0, None
    if one_row_each:
        _check_one_row_each(rows)
    encoded = len(rows) - rows["embedding"].null_count
    if bucket.previous is not None:
        rows_before = sum(file.rows for file in bucket.previous)
        if not encoded and len(rows) == rows_before:
            return Filled(bucket.number, None, True, 0, 0), carried(rows_before)
        files = [storage.join(table, file.path) for file in bucket.previous]
        carries = encoded < len(rows)
        rows, departed = _carry(rows, scan.read_files(files, SCHEMA.names))
        spacing = spacing_of(files) if carries else None
    if not len(rows):
        return Filled(bucket.number, None, False, 0, departed), FileCheck()
    file = _written(table, bucket_path(build.run, bucket.number), len(rows))
    if file is None:
        file = write_bucket(rows, table, build.run, bucket.number, config, spacing)
    else:
        rows = scan.read_files([storage.join(table, file.path)], SCHEMA.names)
    return Filled(bucket.number, file, False, encoded, departed), check_file(rows)


def _written(table: str, path: str, rows: int) -> DataFile | None:
    """The data file that an earlier attempt of the run has written; None: there is none with so many rows."""
    if not storage.exists(storage.join(table, path)):
        return None
    file = describe(table, path)
    return file if file.rows == rows else None


def _staged(parts: Sequence[Part]) -> pa.Table:
    tables = [storage.retried(partial(_row_group, *part)) for part in parts]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def _row_group(file: str, group: int) -> pa.Table:
    fs, path = storage.arrow_filesystem(file)
    with pq.ParquetFile(path, filesystem=fs) as parquet:
        return parquet.read_row_group(group, columns=SCHEMA.names)


def _check_one_row_each(rows: pa.Table) -> None:
    names = ["user_id", "instruction"]
    counts = rows.group_by(names).aggregate([("as_of", "count"), ("as_of", "min"), ("as_of", "max")])
    repeated = counts.filter(pc.greater(counts["as_of_count"], 1))
    if len(repeated):
        first = repeated.slice(0, 1).to_pylist()[0]
        raise InputError(
            f"a user stands in the input {first['as_of_count']} times (as_of {first['as_of_min']} to "
            f"{first['as_of_max']}); a refreshed table has one row per user and instruction: give the newest. To see "
            "who it is, count the input's rows by user_id (reports hold no ids)"
        )


def _carry(rows: pa.Table, old: pa.Table) -> tuple[pa.Table, int]:
    """Encoded rows, with the table's row for each of the others, and the number of table rows that are left out."""
    key_N, key_K = user_keys(rows["user_id"], rows["instruction"]), user_keys(old["user_id"], old["instruction"])
    carried_N = pc.is_null(rows["embedding"]).to_numpy()
    wanted_K = np.isin(key_K, key_N[carried_N])
    kept = pa.concat_tables([rows.filter(pa.array(~carried_N)), old.filter(pa.array(wanted_K))])
    return kept, int((~np.isin(key_K, key_N)).sum())

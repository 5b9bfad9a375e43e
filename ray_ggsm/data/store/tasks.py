"""What the tasks of an ingest do. They stand apart from the job, whose module takes seconds to load."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ray_ggsm.data.store import arrivals, bucket_files, rejected
from ray_ggsm.data.store.arrivals import Batch
from ray_ggsm.data.store.log import StoreFile
from ray_ggsm.data.store.manifest import Manifest, TableState
from ray_ggsm.data.store.seal import schema_of


def read(batch: Batch, parts: int) -> list[object]:
    """Give what was read, rejected records, and the rows of each part of the buckets."""
    arrived = arrivals.read(batch)
    return [
        (arrived.entries, arrived.capped, arrived.not_taken),
        arrived.rejected,
        *arrivals.split(arrived.rows, batch.buckets, parts),
    ]


def write(
    place: str,
    name: str,
    state: TableState,
    most: int | None,
    manifest: Manifest,
    *tables: pa.Table,
) -> tuple[list[StoreFile], int, pa.Table]:
    """Write files of some buckets; returns them, the number of records beyond the most of a user, and rejected records
    that tell of these."""
    written, capped, letters, sequence = [], 0, [], manifest.sequence
    for bucket, rows in bucket_files.by_bucket(tables).items():
        kept, late, lost = rejected.newest(rows, name, state, most)
        capped += lost
        letters.append(late)
        kept = arrivals.finished(kept, state, sequence, manifest.day)
        written.append(bucket_files.write_bucket(kept, place, state.time, bucket, (sequence, sequence), manifest.run))
    told = pa.concat_tables(letters) if letters else rejected.no_rejected()
    return written, capped, told


def write_rejected(place: str, buckets: int, sequence: int, run: str, *tables: pa.Table) -> list[StoreFile]:
    """Write files of records that cannot be used."""
    rows = arrivals.split(rejected.rejected_rows(tables, sequence, buckets), buckets, 1)
    return [
        bucket_files.write_bucket(some, place, None, bucket, (sequence, sequence), run)
        for bucket, some in bucket_files.by_bucket(rows).items()
    ]


def without(
    place: str, table: str, state: TableState, file: StoreFile, paths: Mapping[str, Sequence[str]], run: str
) -> list[StoreFile]:
    """Write a file again, without the rows of some source files (by table); none where nothing is left."""
    rows = bucket_files.read_files(place, [file], schema_of(table, state))
    kept = rejected.rows_without(rows, table, paths)
    if not len(kept):
        return []
    return [bucket_files.write_bucket(kept, place, state.time, file.bucket, file.sequences, run)]

"""Staged vectors -> one new version of a table: the data files bucket by bucket, the gates, one commit.

A bucket's file holds its staged rows, sorted by user; rows that were not encoded again come from the version before. A
bucket in which nothing changed keeps its file. Data files have final names, too, so an interrupted run does not write
them again; the commit is recorded with the run's name, so it happens once.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.on_ray.blocks import THREADS, Block, Job, row_keys
from ray_ggsm.tables import gates, publish, scan
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.files import DataFile, describe, write_bucket
from ray_ggsm.tables.gates import FileCheck
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import SCHEMA

Part = tuple[str, int]
"""A staged file and one of its row groups."""


@dataclass(frozen=True)
class Filled:
    """One bucket of the new version."""

    bucket: int
    file: DataFile | None
    """None: the bucket has no rows now, or it keeps its file"""
    kept: bool
    """nothing changed, and the file of the version before stays"""
    check: FileCheck
    encoded: int
    """rows with a vector of this run"""
    departed: int
    """rows of the version before whose users the input no longer has"""


def fill_buckets(
    job: Job, blocks: Sequence[Block], location: str, config: PublishingConfig, previous: EmbeddingTable | None
) -> list[Filled]:
    """Write the data files of a new version of the table at `location`; `previous` is the version it goes on from.

    Raises:
        InputError: with `previous`, a user stands in the input more than once.
    """
    parts = _parts_of_buckets([job.staged(block) for block in blocks])
    before: dict[int, list[str]] = defaultdict(list)
    if previous:
        for file in previous.data_files():
            before[file.bucket].append(storage.join(previous.location, file.path))
    wanted = sorted({*parts, *before})
    tasks = [_fill.remote(job, bucket, parts[bucket], before.get(bucket), location, config, previous is not None)
             for bucket in wanted]  # fmt: skip
    filled: list[Filled] = ray.get(tasks)
    return filled


def judge_and_publish(
    location: str,
    filled: Sequence[Filled],
    *,
    job: Job,
    config: PublishingConfig,
    previous: EmbeddingTable | None,
    expected_rows: int,
    dead_letters: int,
    metadata: dict[str, Any],
    anyway: str | None,
) -> tuple[int, list[gates.Verdict]]:
    """Ask the gates, and commit; returns the version and the verdicts.

    Args:
        location: the table.
        filled: its buckets.
        job: the run.
        config: limits.
        previous: the version that the run was built on.
        expected_rows: rows that the input asks for, dead letters included.
        dead_letters: of these, rows without a vector.
        metadata: recorded with the version.
        anyway: why a version is published whatever the gates say; recorded with it.

    Raises:
        GateError: a gate failed; nothing is published, and everything written stays.
    """
    found = gates.merge(f.check for f in filled)
    verdicts = gates.judge(
        config.gates,
        found,
        expected_rows=expected_rows,
        dead_letters=dead_letters,
        encoder=job.digest,
        previous=gates.published(previous, found) if previous else None,
        previous_encoder=previous.metadata().get("encoder") if previous else None,
    )
    if anyway is None:
        gates.enforce(verdicts)
    failed = [verdict.gate for verdict in verdicts if not verdict.passed]
    said = {
        **metadata,
        "encoder": job.digest,
        "width": found.widths[0] if found.widths else 0,
        "normalised": True,
        "counts": {
            "expected": expected_rows,
            "written": found.rows,
            "dead_letters": dead_letters,
            "encoded": sum(f.encoded for f in filled),
            "departed": sum(f.departed for f in filled),
        },
        "gates": {verdict.gate: verdict.sentence for verdict in verdicts},
        "failed_gates": failed,
        "published_anyway": anyway if failed else None,
    }
    version = publish.publish(
        location,
        [f.file for f in filled if f.file is not None],
        run=job.run,
        buckets=job.buckets,
        replaced=[f.bucket for f in filled if not f.kept] if previous else None,
        metadata=said,
        expected_version=previous.version if previous else publish.NO_TABLE,
    )
    return version, verdicts


def _parts_of_buckets(files: Sequence[str]) -> dict[int, list[Part]]:
    """Bucket -> where its rows are staged."""

    def read(file: str) -> list[tuple[int, Part]]:
        fs, path = storage.arrow_filesystem(file)
        footer = pq.read_metadata(path, filesystem=fs)
        column = footer.schema.names.index("bucket")
        groups = range(footer.num_row_groups)
        return [(int(footer.row_group(g).column(column).statistics.min), (file, g)) for g in groups]

    parts: dict[int, list[Part]] = defaultdict(list)
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(read, files):
            for bucket, part in found:
                parts[bucket].append(part)
    return parts


@ray.remote(num_cpus=1)
def _fill(
    job: Job,
    bucket: int,
    parts: list[Part],
    before: list[str] | None,
    location: str,
    config: PublishingConfig,
    goes_on: bool,
) -> Filled:
    rows, departed = _staged(parts), 0
    fresh = pc.sum(pc.is_valid(rows["embedding"])).as_py() or 0
    if goes_on:
        old = scan.read_files(before or [], SCHEMA.names, None, None)
        _one_row_per_user(rows)
        if not fresh and len(rows) == len(old):
            return Filled(bucket, None, True, gates.carried(len(old)), 0, 0)
        rows, departed = _carry(rows, old)
    path = f"data/{job.run}/bucket={bucket}/part-00000.parquet"
    if not len(rows):
        return Filled(bucket, None, False, FileCheck(), 0, departed)
    if storage.exists(storage.join(location, path)):
        file = describe(location, path)
        rows = scan.read_files([storage.join(location, path)], SCHEMA.names, None, None)
    else:
        file = write_bucket(rows, location, job.run, bucket, config.files)
    return Filled(bucket, file, False, gates.check_file(rows), fresh, departed)


def _staged(parts: Sequence[Part]) -> pa.Table:
    tables = []
    for file, group in parts:
        fs, path = storage.arrow_filesystem(file)
        with pq.ParquetFile(path, filesystem=fs) as parquet:
            tables.append(parquet.read_row_group(group, columns=SCHEMA.names))
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def _one_row_per_user(rows: pa.Table) -> None:
    names = ["user_id", "instruction"]
    counts = rows.group_by(names).aggregate([("as_of", "count"), ("as_of", "min"), ("as_of", "max")])
    repeated = counts.filter(pc.greater(counts["as_of_count"], 1))
    if len(repeated):
        first = repeated.slice(0, 1).to_pylist()[0]
        raise InputError(
            f"user '{first['user_id']}' stands in the input {first['as_of_count']} times (as_of {first['as_of_min']} "
            f"to {first['as_of_max']}); a refreshed table has one row per user and instruction: give the newest"
        )


def _carry(rows: pa.Table, old: pa.Table) -> tuple[pa.Table, int]:
    """Fresh rows, and for the others the row that the table has; and how many rows of the table nobody asks for."""
    asked_N, key_K = row_keys(rows["user_id"], rows["instruction"]), row_keys(old["user_id"], old["instruction"])
    carried_N = pc.is_null(rows["embedding"]).to_numpy()
    wanted_K = np.isin(key_K, asked_N[carried_N])
    kept = pa.concat_tables([rows.filter(pa.array(~carried_N)), old.filter(pa.array(wanted_K))])
    return kept, int((~np.isin(key_K, asked_N)).sum())

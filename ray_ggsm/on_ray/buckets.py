"""Staged vectors -> one new version of a table: the data files bucket by bucket, the gates, one commit.

A bucket's file holds its staged rows, sorted by user; rows that were not encoded again come from the version before. A
bucket in which nothing changed keeps its file. Data files have final names, too, so an interrupted run does not write
them again; the commit is recorded with the run's name, so it happens once.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.on_ray.blocks import Job
from ray_ggsm.on_ray.marks import user_keys
from ray_ggsm.on_ray.plan import THREADS, Block, read_footer
from ray_ggsm.on_ray.run_report import RunReport
from ray_ggsm.tables import gates, publish, scan
from ray_ggsm.tables.config import PublishingConfig
from ray_ggsm.tables.files import DataFile, bucket_path, describe, spacing_of, write_bucket
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
    encoded: int
    """rows with a vector of this run"""
    departed: int
    """rows of the version before whose users have no vector now: they left the input, or their row is rejected"""


@dataclass(frozen=True)
class Staged:
    """A version that is written, and not published."""

    buckets: tuple[Filled, ...]
    check: FileCheck
    """of all of them"""

    @property
    def unchanged(self) -> bool:
        """Whether it equals the version before."""
        return all(bucket.kept for bucket in self.buckets)


def fill_buckets(
    job: Job,
    blocks: Sequence[Block],
    location: str,
    config: PublishingConfig,
    previous: EmbeddingTable | None = None,
    *,
    one_row_each: bool = False,
) -> Staged:
    """Write the data files of a new version of the table at `location`; `previous` is the version it goes on from.

    Raises:
        InputError: with `one_row_each`, a user stands in the input more than once.
    """
    parts = _parts_of_buckets([job.staged(block.number) for block in blocks])
    before: dict[int, list[DataFile]] = defaultdict(list)
    if previous:
        for file in previous.data_files():
            before[file.bucket].append(file)
    tasks = [
        _fill.remote(job, k, parts[k], before[k] if previous else None, location, config, one_row_each)
        for k in sorted({*parts, *before})
    ]
    filled, check = [], FileCheck()
    while tasks:  # anchors are merged as they come, so that only the smallest stay in memory
        (done,), tasks = ray.wait(tasks)
        bucket, mine = ray.get(done)
        filled.append(bucket)
        check = gates.merge([check, mine])
    return Staged(tuple(sorted(filled, key=lambda f: f.bucket)), check)


def judge_and_publish(
    location: str,
    staged: Staged,
    *,
    job: Job,
    config: PublishingConfig,
    previous: EmbeddingTable | None,
    comparable: bool,
    expected_rows: int,
    dead_letters: int,
    metadata: dict[str, Any],
    anyway: str | None,
    report: RunReport,
) -> int:
    """Ask the gates, and commit; returns the version.

    Args:
        location: the table.
        staged: what is written.
        job: the run.
        config: limits.
        previous: the version that the run was built on.
        comparable: whether equal rows should have the same vectors as in `previous`.
        expected_rows: rows that the input asks for, dead letters included.
        dead_letters: of these, rows without a vector.
        metadata: recorded with the version.
        anyway: why a version is published whatever the gates say; recorded with it.
        report: gets counts, verdicts and the version.

    Raises:
        GateError: a gate failed; nothing is published, and everything written stays.
    """
    found, before = staged.check, previous.metadata() if previous else {}
    verdicts = gates.judge(
        config.gates,
        found,
        expected_rows=expected_rows,
        dead_letters=dead_letters,
        encoder=job.digest,
        previous=gates.published(previous, found) if previous else None,
        previous_encoder=job.digest if comparable else None,
    )
    report.gates = {v.gate: ("" if v.passed else "FAILED: ") + v.sentence for v in verdicts}
    counts = {
        "expected": expected_rows,
        "written": found.rows,
        "dead_letters": dead_letters,
        "encoded": sum(f.encoded for f in staged.buckets),
        "departed": sum(f.departed for f in staged.buckets),
    }
    report.counts |= counts
    if anyway is None:
        gates.enforce(verdicts)
    failed = [verdict.gate for verdict in verdicts if not verdict.passed]
    said = {
        **metadata,
        "encoder": job.digest,
        "width": found.widths[0] if found.widths else before.get("width", 0),
        "normalised": True,
        "counts": counts,
        "gates": {verdict.gate: verdict.sentence for verdict in verdicts},
        "failed_gates": failed,
        "published_anyway": anyway if failed else None,
    }
    report.version = publish.publish(
        location,
        [f.file for f in staged.buckets if f.file is not None],
        run=job.run,
        buckets=job.buckets,
        replaced=[f.bucket for f in staged.buckets if not f.kept] if previous else None,
        metadata=said,
        expected_version=previous.version if previous else publish.NO_TABLE,
    )
    return report.version


def _parts_of_buckets(files: Sequence[str]) -> dict[int, list[Part]]:
    """Bucket -> where its rows are staged."""

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


@ray.remote(num_cpus=1)
def _fill(
    job: Job,
    bucket: int,
    parts: list[Part],
    before: list[DataFile] | None,
    location: str,
    config: PublishingConfig,
    one_row_each: bool,
) -> tuple[Filled, FileCheck]:
    rows, departed = _staged(parts), 0
    if one_row_each:
        _one_row_per_user(rows)
    fresh = len(rows) - rows["embedding"].null_count
    spacing = None
    if before is not None:
        there = sum(file.rows for file in before)
        if not fresh and len(rows) == there:
            return Filled(bucket, None, True, 0, 0), gates.carried(there)
        files = [storage.join(location, file.path) for file in before]
        carries = rows["embedding"].null_count > 0
        rows, departed = _carry(rows, scan.read_files(files, SCHEMA.names))
        spacing = spacing_of(files) if carries else None
    path = bucket_path(job.run, bucket)
    if not len(rows):
        return Filled(bucket, None, False, 0, departed), FileCheck()
    if storage.exists(storage.join(location, path)):
        file = describe(location, path)
        rows = scan.read_files([storage.join(location, path)], SCHEMA.names)
    else:
        file = write_bucket(rows, location, job.run, bucket, config.files, spacing)
    return Filled(bucket, file, False, fresh, departed), gates.check_file(rows)


def _staged(parts: Sequence[Part]) -> pa.Table:
    tables = [storage.retried(partial(_row_group, *part)) for part in parts]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def _row_group(file: str, group: int) -> pa.Table:
    fs, path = storage.arrow_filesystem(file)
    with pq.ParquetFile(path, filesystem=fs) as parquet:
        return parquet.read_row_group(group, columns=SCHEMA.names)


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
    asked_N, key_K = user_keys(rows["user_id"], rows["instruction"]), user_keys(old["user_id"], old["instruction"])
    carried_N = pc.is_null(rows["embedding"]).to_numpy()
    wanted_K = np.isin(key_K, asked_N[carried_N])
    kept = pa.concat_tables([rows.filter(pa.array(~carried_N)), old.filter(pa.array(wanted_K))])
    return kept, int((~np.isin(key_K, asked_N)).sum())

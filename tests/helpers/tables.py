"""Embedding tables of made-up unit vectors."""

import datetime as dt
import runpy
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import delta
from ray_ggsm.tables.files import DataFile, DataFileConfig, write_bucket
from ray_ggsm.tables.metadata import VersionMetadata
from ray_ggsm.tables.publish import NO_TABLE, NewVersion, publish
from ray_ggsm.tables.schema import rows_to_table

BUCKETS = 5
WIDTH = 7
AS_OF = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)


def rows(
    users: int | list[str], *, run: str = "r0", seed: int = 0, width: int = WIDTH, instruction: str = ""
) -> pa.Table:
    """Unit vectors of users u0, u1, ..."""
    names = [f"u{i}" for i in range(users)] if isinstance(users, int) else users
    vector_ND = np.random.default_rng(seed).normal(size=(len(names), width)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    N = np.arange(len(names))
    as_of = pa.array([AS_OF] * len(names), pa.timestamp("us", "UTC"))
    return rows_to_table(pa.array(names, pa.string()), as_of, instruction, N, N + 100, vector_ND, "enc1", run)


def stage(
    location: str, table: pa.Table, run: str, buckets: int = BUCKETS, config: DataFileConfig | None = None
) -> list[DataFile]:
    """Write all buckets of a table's rows."""
    bucket_N = bucket_of(table["user_id"], buckets)
    return [
        write_bucket(table.filter(pa.array(bucket_N == k)), location, run, k, config or DataFileConfig())
        for k in sorted(set(bucket_N.tolist()))
    ]


def put(location: str, table: pa.Table, run: str, **options) -> int:
    """Stage and publish a whole version."""
    options = {"metadata": VersionMetadata(encoder="enc1"), "buckets": BUCKETS, **options}
    return publish_files(location, stage(location, table, run, options["buckets"]), run, **options)


def publish_files(location: str, files: list[DataFile], run: str, **options) -> int:
    """Publish written files, as a whole version unless `replaced` is given, built on the newest version."""
    options = {"buckets": BUCKETS, "replaced": None, "metadata": {}, **options}
    if "expected_version" not in options:
        table = delta.find(location)
        options["expected_version"] = NO_TABLE if table is None else table.version()
    options["metadata"] = VersionMetadata.model_validate(options["metadata"])
    return publish(location, NewVersion(files=files, run=run, **options))


def job(*arguments: object) -> int:
    """The exit code of jobs/tables.py."""
    before = sys.argv
    sys.argv = ["tables.py", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "tables.py"), run_name="__main__")
    finally:
        sys.argv = before
    return int(end.value.code or 0)

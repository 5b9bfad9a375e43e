"""The CPU tasks around the encoder actors. They must not import torch, which would add seconds to their start."""

import numpy as np
import pyarrow as pa

from ray_ggsm.building.buckets import Bucket, BucketFiles, Built
from ray_ggsm.building.build import Build
from ray_ggsm.tables.schema import SCHEMA

BUCKET = "row.bucket"
"""Column of the blocks. The last row of a block only names its bucket (`Bucket.to_json`); so a block has a row even if
there is nothing to encode."""


def finished(bucket: Bucket, build: Build) -> tuple[int, Built | None]:
    """The number of a bucket, and the bucket as an earlier attempt of the run wrote it; None: it has not."""
    return bucket.number, BucketFiles(bucket, build).finished()


def write_without_encoding(bucket: Bucket, build: Build) -> Built:
    """Write a bucket in which nobody needs a new vector."""
    return BucketFiles(bucket, build).write(SCHEMA.empty_table(), np.zeros(0, dtype=bool))


def read(described: pa.Table, build: Build) -> pa.Table:
    """The rows of a bucket that need a vector, and a row with its name."""
    rows = BucketFiles(Bucket.from_json(described[BUCKET][0].as_py()), build).fresh()
    return pa.concat_tables([rows, described.select([BUCKET])], promote_options="default")

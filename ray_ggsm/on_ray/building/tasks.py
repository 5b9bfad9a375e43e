"""The CPU tasks around the encoder actors. They must not import torch, which would add seconds to their start."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.building.buckets import Bucket, BucketFiles, Built
from ray_ggsm.building.build import Build
from ray_ggsm.tables.schema import SCHEMA

BUCKET, FITS, TOKENS = "row.bucket", "row.fits", "row.tokens"
"""Columns of the blocks. The last row of a block only names its bucket (`Bucket.to_json`) and its tokens; so a block
has a row even if there is nothing to encode."""


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


def write(rows: pa.Table, build: Build) -> dict[str, np.ndarray]:
    """Write the file of a bucket; returns what became of it, its encoded rows and their tokens."""
    is_name = pc.is_valid(rows[BUCKET])
    (named,) = rows.filter(is_name).select([BUCKET, TOKENS]).to_pylist()
    encoded = rows.filter(pc.invert(is_name))
    files = BucketFiles(Bucket.from_json(named[BUCKET]), build)
    built = files.write(encoded.select(SCHEMA.names).cast(SCHEMA), np.asarray(encoded[FITS], dtype=bool))
    result = np.empty(1, dtype=object)
    result[0] = built
    return {"built": result, "rows": np.array([len(encoded)]), "tokens": np.array([named[TOKENS]])}

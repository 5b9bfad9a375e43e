"""The CPU tasks around the encoder actors. They must not import torch, which would add seconds to their start."""

from functools import partial

import numpy as np
import pyarrow as pa
from ray.util.metrics import Counter

from ray_ggsm.building.build import Build
from ray_ggsm.building.rows import read_rows, write_staged
from ray_ggsm.data.chunks import chunk_of
from ray_ggsm.on_ray.building.known import Known, known_rows

DONE = pa.schema([("rows", pa.int64()), ("encoded", pa.int64()), ("tokens", pa.int64())])
"""Columns that a task reports about a finished chunk: its rows, those that were encoded now, and their tokens."""


def read(described: pa.Table, build: Build, known: Known | None) -> pa.Table:
    """Read a chunk, described as for `chunk_of`; returns the good rows of `read_rows`."""
    found = read_rows(chunk_of(described), build, partial(known_rows, known, build.buckets))
    if found.dead_letters:
        Counter("ray_ggsm_dead_letters", "Rows that were rejected").inc(found.dead_letters)
    return found.rows


def write(rows: pa.Table, build: Build) -> pa.Table:
    """Write the staged file of the rows of one chunk; returns DONE."""
    encoded, tokens = len(rows) - rows["embedding"].null_count, 0
    if len(rows):
        tokens, chunk = rows["row.tokens"][0].as_py(), rows["row.chunk"][0].as_py()
        fits_N = np.asarray(rows["row.fits"])
        write_staged(rows.drop_columns(["row.fits", "row.chunk", "row.tokens"]), fits_N, chunk, build)
    return pa.table([[len(rows)], [encoded], [tokens]], schema=DONE)

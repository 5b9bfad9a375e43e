"""User rows -> staged vectors, block by block. A block is some rows of an input file, and one staged file.

A staged file gets its name when it is complete, and its name depends on its block only. So whatever is killed, the next
run does the blocks that have no file yet: nothing is lost, nothing is done twice, and there is no list of ids to keep
or to load. A staged file has one row group per bucket of the table, in which `buckets.py` finds its rows.

    read (CPU tasks: columns, validation, content hashes) -> encode (actors) -> write (CPU tasks)

Here is what the tasks do. `encode.py` has the actors and runs it all; it imports torch, and this file must not: that
takes seconds which a task has no use for (tests/test_layers.py).
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.util.metrics import Counter

from ray_ggsm import storage
from ray_ggsm.data.content import content_hashes
from ray_ggsm.data.schema import DEAD_LETTER
from ray_ggsm.data.validate import validate
from ray_ggsm.embedding.config import EmbeddingConfig
from ray_ggsm.model.event_vectors import Store
from ray_ggsm.on_ray.marks import Marks, is_known, row_marks
from ray_ggsm.on_ray.plan import Block, read_block
from ray_ggsm.tables.schema import KEY, SCHEMA

STAGED = SCHEMA.append(pa.field("bucket", pa.int32()))
"""Columns of staged files; `embedding` is null where the table already has the vector."""
OUT_OF_MEMORY = "out_of_memory"
DONE = pa.schema([("rows", pa.int64()), ("encoded", pa.int64()), ("tokens", pa.int64())])
"""What is told of a block that is done: its rows, those that were encoded now, and their tokens."""


@dataclass(frozen=True)
class Job:
    """What every block of a run is embedded with."""

    embedding: EmbeddingConfig
    max_text_length: int
    """of an event, in characters; rows with a longer one are rejected"""
    encoder: str
    """location of the saved encoder"""
    digest: str
    """of the encoder"""
    run: str
    staging: str
    """where staged files and dead letters go"""
    buckets: int
    modalities: tuple[str, ...]
    features: int
    store: Store
    known: Marks | None = None
    """of the rows that the table already has; None: all are encoded"""

    def staged(self, block: int) -> str:
        """The staged file of a block, by number."""
        return storage.join(self.staging, "blocks", f"{block:08d}.parquet")

    def dead(self, block: int, why: str) -> str:
        """The rejected rows of a block, by number."""
        return storage.join(self.staging, "dead_letters", f"{block:08d}-{why}.parquet")


def read(described: pa.Table, job: Job) -> pa.Table:
    """A block's good rows, once per instruction, and columns `row.*` of our own (no modality has such a name)."""
    assert len(described) == 1
    block = Block(**described.to_pylist()[0])
    good, dead = validate(
        read_block(block, ["user_id", "as_of", *job.modalities, "tabular", "query"]),
        job.modalities,
        job.features,
        job.max_text_length,
        source=block.file,
        stage="embed",
    )
    if len(dead):
        Counter("ray_ggsm_dead_letters", "Rows that were rejected").inc(len(dead))
        _put(dead, job.dead(block.number, "invalid"))
    parts = [_instructed(good, job, name, text) for name, text in job.embedding.instructions.items()]
    table = pa.concat_tables(parts)
    if not len(table):
        _stage(STAGED.empty_table(), job, block.number)
    return table.append_column("row.block", pa.array([block.number] * len(table), pa.int64()))


def _instructed(rows: pa.Table, job: Job, name: str, text: str) -> pa.Table:
    if any(job.embedding.instructions.values()):
        rows = _with_query(rows, text)
    said = [column for column in (*job.modalities, "tabular", "query") if column in rows.column_names]
    content_N = content_hashes(rows, said)
    instruction = pa.repeat(name, len(rows))
    known_N = is_known(job.known, job.buckets, rows["user_id"], row_marks(rows["user_id"], instruction, content_N))
    columns = {"instruction": instruction, "content": pa.array(content_N), "is_known": pa.array(known_N)}
    for column, values in columns.items():
        rows = rows.append_column(f"row.{column}", values)
    return rows


def _with_query(rows: pa.Table, text: str) -> pa.Table:
    """The rows with `text` as their query; an empty text leaves the rows' own, if they have any."""
    at = rows.column_names.index("query") if "query" in rows.column_names else -1
    if at >= 0:
        return rows if not text else rows.set_column(at, "query", pa.repeat(text, len(rows)))
    return rows.append_column("query", pa.repeat(text, len(rows)) if text else pa.nulls(len(rows), pa.string()))


def write(rows: pa.Table, job: Job) -> pa.Table:
    """Write a block's staged file; the result (DONE) only tells what is there."""
    encoded, tokens = len(rows) - rows["embedding"].null_count, 0
    if len(rows):
        number, tokens = rows["row.block"][0].as_py(), rows["row.tokens"][0].as_py()
        rows = rows.drop_columns(["row.block", "row.tokens"])
        lost_N, memory = _given_up(rows), job.dead(number, "memory")
        if lost_N.any():
            lost = rows.filter(pa.array(lost_N))
            why = {"reason": OUT_OF_MEMORY, "detail": "too large for the memory, alone in its batch", "stage": "embed"}
            columns = {"user_id": lost["user_id"], "as_of": lost["as_of"], "source": pa.nulls(len(lost), pa.string())}
            columns |= {name: pa.repeat(value, len(lost)) for name, value in why.items()}
            _put(pa.table({name: columns[name] for name in DEAD_LETTER.names}).cast(DEAD_LETTER), memory)
        else:
            storage.remove(memory)  # of an earlier attempt
        _stage(rows.filter(pa.array(~lost_N)), job, number)
    return pa.table([[len(rows)], [encoded], [tokens]], schema=DONE)


def _given_up(rows: pa.Table) -> np.ndarray:
    """Rows that the embedder had no memory for."""
    lost_N, has_vector = np.zeros(len(rows), dtype=bool), pc.is_valid(rows["embedding"])
    first = pc.list_element(rows["embedding"].filter(has_vector), 0)
    lost_N[has_vector.to_numpy()] = np.isneginf(first.to_numpy())
    return lost_N


def _stage(rows: pa.Table, job: Job, block: int) -> None:
    rows = rows.sort_by([("bucket", "ascending"), *((name, "ascending") for name in KEY)])
    bucket_N = rows["bucket"].to_numpy()
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, STAGED, compression="zstd", use_dictionary=False) as writer:
        for bucket in np.unique(bucket_N):
            start, end = np.searchsorted(bucket_N, [bucket, bucket + 1])
            part = rows.slice(start, end - start)
            writer.write_table(part, row_group_size=max(len(part), 1))
    storage.write_bytes(job.staged(block), sink.getvalue().to_pybytes())


def _put(table: pa.Table, location: str) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(location, sink.getvalue().to_pybytes())

"""User rows -> staged vectors, block by block. A block is some rows of an input file, and one staged file.

A staged file gets its name when it is complete, and its name depends on its block only. So whatever is killed, the next
run does the blocks that have no file yet: nothing is lost, nothing is done twice, and there is no list of ids to keep
or to load. A staged file has one row group per bucket of the table, in which `buckets.py` finds its rows.

    read (CPU tasks: columns, validation, content hashes) -> encode (actors) -> write (CPU tasks)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.util.metrics import Counter

from ray_ggsm import storage
from ray_ggsm.data.content import content_hashes
from ray_ggsm.data.schema import DEAD_LETTER
from ray_ggsm.data.validate import validate
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.experiment import Experiment
from ray_ggsm.model import saved
from ray_ggsm.model.batch import kept_events
from ray_ggsm.model.event_vectors import Store, keys
from ray_ggsm.on_ray.devices import actor_resources, device_of
from ray_ggsm.on_ray.plan import Block, read_block
from ray_ggsm.on_ray.run_report import Progress
from ray_ggsm.tables.schema import KEY, SCHEMA, bucket_of, rows_to_table

STAGED = SCHEMA.append(pa.field("bucket", pa.int32()))
"""Columns of staged files; `embedding` is null where the table already has the vector."""
OUT_OF_MEMORY = "out_of_memory"
DONE = pa.schema([("rows", pa.int64()), ("encoded", pa.int64()), ("tokens", pa.int64())])
"""What is told of a block that is done: its rows, those that were encoded now, and their tokens."""


@dataclass(frozen=True)
class Job:
    """What every block of a run is embedded with."""

    experiment: Experiment
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
    known: Mapping[int, ray.ObjectRef] | None = None
    """bucket -> reference to the `row_marks`, sorted, of the rows that the table already has; None: all are encoded"""

    def staged(self, block: int) -> str:
        """The staged file of a block, by number."""
        return storage.join(self.staging, "blocks", f"{block:08d}.parquet")

    def dead(self, block: int, why: str) -> str:
        """The rejected rows of a block, by number."""
        return storage.join(self.staging, "dead_letters", f"{block:08d}-{why}.parquet")


def embed_blocks(job: Job, blocks: Sequence[Block], name: str) -> Progress:
    """Stage all blocks that have no staged file yet; lines about it begin with `name`."""
    there = set(storage.list_files(storage.join(job.staging, "blocks"), ".parquet"))
    waiting = [block for block in blocks if job.staged(block.number) not in there]
    each = len(job.experiment.embedding.instructions)
    progress = Progress(name, each * sum(block.rows for block in waiting))
    print(f"{name}: {len(waiting):,} of {len(blocks):,} blocks are to do", flush=True)
    if not waiting:
        return progress
    with _whole_blocks():
        written = (
            ray.data.from_items([asdict(block) for block in waiting], override_num_blocks=len(waiting))
            .map_batches(partial(_read, job=job), batch_format="pyarrow", batch_size=None)
            .map_batches(
                _Encode,
                fn_constructor_args=[job],
                batch_format="pyarrow",
                batch_size=None,
                compute=ActorPoolStrategy(size=job.experiment.ray.embed_workers),
                **actor_resources(job.experiment.ray),
            )
            .map_batches(partial(_write, job=job), batch_format="pyarrow", batch_size=None)
        )
        for done in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            progress.add(*(pc.sum(done[column]).as_py() or 0 for column in DONE.names))
    return progress


@contextmanager
def _whole_blocks() -> Iterator[None]:
    """Ray Data neither splits a block, nor gives up on one that takes long, nor on actors killed while they start."""
    context = DataContext.get_current()
    changes = {
        "target_max_block_size": None,
        "execution_no_progress_timeout_s": -1,
        "max_consecutive_actor_init_deaths": 3,
    }
    before = {name: getattr(context, name) for name in changes}
    for name, value in changes.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _read(described: pa.Table, job: Job) -> pa.Table:
    """A block's good rows, once per instruction, and columns `row.*` of our own (no modality has such a name)."""
    assert len(described) == 1
    block = Block(**described.to_pylist()[0])
    good, dead = validate(
        read_block(block, ["user_id", "as_of", *job.modalities, "tabular", "query"]),
        job.modalities,
        job.features,
        job.experiment.data.max_text_length,
        source=block.file,
        stage="embed",
    )
    if len(dead):
        Counter("ray_ggsm_dead_letters", "Rows that were rejected").inc(len(dead))
        _put(dead, job.dead(block.number, "invalid"))
    parts = [_instructed(good, job, name, text) for name, text in job.experiment.embedding.instructions.items()]
    table = pa.concat_tables(parts)
    if not len(table):
        _stage(STAGED.empty_table(), job, block.number)
    return table.append_column("row.block", pa.array([block.number] * len(table), pa.int64()))


def _instructed(rows: pa.Table, job: Job, name: str, text: str) -> pa.Table:
    if any(job.experiment.embedding.instructions.values()):
        rows = _with_query(rows, text)
    said = [column for column in (*job.modalities, "tabular", "query") if column in rows.column_names]
    content_N = content_hashes(rows, said)
    instruction = pa.repeat(name, len(rows))
    known_N = _is_known(job, rows["user_id"], row_marks(rows["user_id"], instruction, content_N))
    columns = {"instruction": instruction, "content": pa.array(content_N), "is_known": pa.array(known_N)}
    for column, values in columns.items():
        rows = rows.append_column(f"row.{column}", values)
    return rows


def _is_known(job: Job, user_id: pa.ChunkedArray, mark_N: np.ndarray) -> np.ndarray:
    """Rows that the table already has, (N,) bool."""
    known_N = np.zeros(len(mark_N), dtype=bool)
    if job.known is None:
        return known_N
    bucket_N = bucket_of(user_id, job.buckets)
    there = [int(bucket) for bucket in np.unique(bucket_N) if int(bucket) in job.known]
    for bucket, mark_K in zip(there, ray.get([job.known[bucket] for bucket in there]), strict=True):
        at = np.flatnonzero(bucket_N == bucket)
        place = np.minimum(np.searchsorted(mark_K, mark_N[at]), len(mark_K) - 1)
        known_N[at] = mark_K[place] == mark_N[at]
    return known_N


def _with_query(rows: pa.Table, text: str) -> pa.Table:
    """The rows with `text` as their query; an empty text leaves the rows' own, if they have any."""
    at = rows.column_names.index("query") if "query" in rows.column_names else -1
    if at >= 0:
        return rows if not text else rows.set_column(at, "query", pa.repeat(text, len(rows)))
    return rows.append_column("query", pa.repeat(text, len(rows)) if text else pa.nulls(len(rows), pa.string()))


class _Encode:
    """Actor: a block's rows -> staged rows."""

    def __init__(self, job: Job) -> None:
        self.job, config = job, job.experiment.embedding
        trained = saved.load(job.encoder, device_of(job.experiment.ray))
        finished_mask = config.mask == "inference"
        self.embedder = Embedder(trained, job.store.open(), config.tokens_per_batch, finished_mask)
        self.users = Counter("ray_ggsm_users_embedded", "Users whose vectors were computed")
        self.tokens = Counter("ray_ggsm_tokens", "Tokens that went through the encoder, without padding")

    def __call__(self, rows: pa.Table) -> pa.Table:
        size, before = self.job.experiment.embedding.rows_per_batch, self.embedder.tokens
        fresh = rows.filter(pc.invert(rows["row.is_known"]))  # windows of rows to encode are full, however few they are
        vectors = (vector for start in range(0, len(fresh), size) for vector in self.embedder(fresh.slice(start, size)))
        parts = [self._staged(rows.slice(start, size), vectors) for start in range(0, len(rows), size)]
        schema = STAGED.append(pa.field("row.block", pa.int64()))
        table = pa.concat_tables([p.cast(schema) for p in parts]) if parts else schema.empty_table()
        tokens = self.embedder.tokens - before
        if len(fresh):
            self.users.inc(len(fresh))
            self.tokens.inc(tokens)
        return table.append_column("row.tokens", pa.array([tokens] * len(table), pa.int64()))

    def _staged(self, rows: pa.Table, vectors: Iterator[np.ndarray]) -> pa.Table:
        """Staged rows; those without a vector take the next of `vectors`."""
        fresh_N = ~rows["row.is_known"].to_numpy()
        template = self.embedder.encoder.template
        vector_ND = np.zeros((len(rows), self.embedder.encoder.width), dtype=np.float32)
        for n in np.flatnonzero(fresh_N):
            vector_ND[n] = next(vectors)
        events_N = kept_events(rows, template).sum(axis=0).astype(np.int32)
        content_N, keys_ = rows["row.content"].to_numpy(), (rows["user_id"], rows["as_of"])
        table = rows_to_table(*keys_, "", events_N, content_N, vector_ND, self.job.digest, self.job.run)
        vectors = pc.if_else(pa.array(fresh_N), table["embedding"], pa.scalar(None, STAGED.field("embedding").type))
        table = table.set_column(table.column_names.index("embedding"), STAGED.field("embedding"), vectors)
        table = table.set_column(table.column_names.index("instruction"), "instruction", rows["row.instruction"])
        table = table.append_column("bucket", pa.array(bucket_of(rows["user_id"], self.job.buckets)))
        return table.append_column("row.block", rows["row.block"])


def _write(rows: pa.Table, job: Job) -> pa.Table:
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


def user_keys(user_id: pa.Array | pa.ChunkedArray, instruction: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """One number for a user and instruction, uint64 (N,)."""
    joined = pc.binary_join_element_wise(user_id, instruction, "\x00")
    return keys(joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined)


def row_marks(
    user_id: pa.Array | pa.ChunkedArray, instruction: pa.Array | pa.ChunkedArray, content_N: np.ndarray
) -> np.ndarray:
    """One number for a user, an instruction and what the row says, uint64 (N,)."""
    return user_keys(user_id, instruction) ^ content_N.view(np.uint64)

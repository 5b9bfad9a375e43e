"""Runs the blocks: the tasks of `blocks.py`, and between them the actors that encode."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.util.metrics import Counter

from ray_ggsm import storage
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model import saved
from ray_ggsm.model.batch import kept_events
from ray_ggsm.on_ray.blocks import DONE, STAGED, Job, read, write
from ray_ggsm.on_ray.devices import actor_resources, device_of
from ray_ggsm.on_ray.plan import Block
from ray_ggsm.on_ray.run_report import Progress
from ray_ggsm.tables.schema import bucket_of, rows_to_table


def embed_blocks(job: Job, resources: RayConfig, blocks: Sequence[Block], name: str) -> Progress:
    """Stage all blocks that have no staged file yet; lines about it begin with `name`."""
    there = set(storage.list_files(storage.join(job.staging, "blocks"), ".parquet"))
    waiting = [block for block in blocks if job.staged(block.number) not in there]
    each = len(job.embedding.instructions)
    progress = Progress(name, each * sum(block.rows for block in waiting))
    print(f"{name}: {len(waiting):,} of {len(blocks):,} blocks are to do", flush=True)
    if not waiting:
        return progress
    with _whole_blocks():
        written = (
            ray.data.from_items([asdict(block) for block in waiting], override_num_blocks=len(waiting))
            .map_batches(partial(read, job=job), batch_format="pyarrow", batch_size=None)
            .map_batches(
                _Encode,
                fn_constructor_args=[job, resources],
                batch_format="pyarrow",
                batch_size=None,
                compute=ActorPoolStrategy(size=resources.embed_workers),
                **actor_resources(resources),
            )
            .map_batches(partial(write, job=job), batch_format="pyarrow", batch_size=None)
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


class _Encode:
    """Actor: a block's rows -> staged rows."""

    def __init__(self, job: Job, resources: RayConfig) -> None:
        self.job, config = job, job.embedding
        trained = saved.load(job.encoder, device_of(resources))
        finished_mask = config.mask == "inference"
        self.embedder = Embedder(trained, job.store.open(), config.tokens_per_batch, finished_mask)
        self.users = Counter("ray_ggsm_users_embedded", "Users whose vectors were computed")
        self.tokens = Counter("ray_ggsm_tokens", "Tokens that went through the encoder, without padding")

    def __call__(self, rows: pa.Table) -> pa.Table:
        size, before = self.job.embedding.rows_per_batch, self.embedder.tokens
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

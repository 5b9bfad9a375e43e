"""Encodes chunks of user rows into staged files, on Ray Data.

read (CPU tasks: columns, validation, fingerprints) -> encode (actors) -> write (CPU tasks)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import DataContext
from ray.util.metrics import Counter

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.report import Progress
from ray_ggsm.building.rows import STAGED
from ray_ggsm.data.chunks import Chunk
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.experiment import RayConfig
from ray_ggsm.hashing import bucket_of
from ray_ggsm.model import saved
from ray_ggsm.model.events import kept_events
from ray_ggsm.on_ray.building.known import Known
from ray_ggsm.on_ray.building.tasks import DONE, read, write
from ray_ggsm.on_ray.cluster.devices import actor_options, actor_pool, device_of
from ray_ggsm.tables.schema import rows_to_table


def encode_chunks(
    build: Build, known: Known | None, chunks: Sequence[Chunk], resources: RayConfig, name: str
) -> Progress:
    """Stage all chunks that have no staged file yet.

    Args:
        build: the build.
        known: fingerprints of rows that the table already has and that keep their vector; None: encode all rows.
        chunks: all chunks of the input.
        resources: number of encoder actors, and the resources of each.
        name: first word of the lines that are printed.
    """
    staged = set(storage.list_files(build.chunks, ".parquet"))
    waiting = [chunk for chunk in chunks if build.staged(chunk.number) not in staged]
    progress = Progress(name, len(build.embedding.instructions) * sum(chunk.rows for chunk in waiting))
    print(f"{name}: {len(waiting):,} of {len(chunks):,} chunks are to do", flush=True)
    if not waiting:
        return progress
    with _whole_chunks():
        written = (
            ray.data.from_items([asdict(chunk) for chunk in waiting], override_num_blocks=len(waiting))
            .map_batches(partial(read, build=build, known=known), batch_format="pyarrow", batch_size=None)
            .map_batches(
                _Encode,
                fn_constructor_args=[build, resources],
                batch_format="pyarrow",
                batch_size=None,
                compute=actor_pool(resources, len(waiting)),
                **actor_options(resources),
            )
            .map_batches(partial(write, build=build), batch_format="pyarrow", batch_size=None)
        )
        for done in written.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            progress.add(*(pc.sum(done[column]).as_py() or 0 for column in DONE.names))
    return progress


@contextmanager
def _whole_chunks() -> Iterator[None]:
    """Keep Ray Data from splitting a chunk, from giving up on a slow one, and on actors that die while they start."""
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
    """Actor that turns the rows of a chunk into staged rows."""

    def __init__(self, build: Build, resources: RayConfig) -> None:
        self.build, config = build, build.embedding
        bundle = saved.load(build.encoder, device_of(resources))
        finished_mask = config.mask == "inference"
        self.embedder = Embedder(bundle, build.vectors.open(), config.tokens_per_batch, finished_mask)
        self.users = Counter("ray_ggsm_users_embedded", "Users whose vectors were computed")
        self.tokens = Counter("ray_ggsm_tokens", "Tokens that went through the encoder, without padding")

    def __call__(self, rows: pa.Table) -> pa.Table:
        size, before = self.build.embedding.rows_per_batch, self.embedder.tokens
        fresh_N = ~rows["row.is_known"].to_numpy()
        fresh = rows.filter(pa.array(fresh_N))  # so windows of rows are full, however few rows are encoded
        vector_ND = np.zeros((len(rows), self.embedder.encoder.vector_width), dtype=np.float32)
        fits_N = np.ones(len(rows), dtype=bool)
        places = np.flatnonzero(fresh_N)
        for start in range(0, len(fresh), size):
            embedded = self.embedder(fresh.slice(start, size))
            vector_ND[places[start : start + size]] = embedded.vectors
            fits_N[places[start : start + size]] = embedded.fits
        tokens = self.embedder.tokens - before
        if len(fresh):
            self.users.inc(len(fresh))
            self.tokens.inc(tokens)
        windows = [slice(start, start + size) for start in range(0, len(rows), size)]  # a list column has a limit
        parts = [self._staged(rows.slice(w.start, size), vector_ND[w], fresh_N[w]) for w in windows]
        table = pa.concat_tables(parts) if parts else STAGED.empty_table()
        table = table.append_column("row.fits", pa.array(fits_N)).append_column("row.chunk", rows["row.chunk"])
        return table.append_column("row.tokens", pa.array([tokens] * len(table), pa.int64()))

    def _staged(self, rows: pa.Table, vector_ND: np.ndarray, fresh_N: np.ndarray) -> pa.Table:
        """The rows in the columns of STAGED; the embedding of a known row is null."""
        events_N = kept_events(rows, self.embedder.encoder.template).sum(axis=0).astype(np.int32)
        content_N, keys = rows["row.content"].to_numpy(), (rows["user_id"], rows["as_of"])
        build = self.build
        table = rows_to_table(*keys, "", events_N, content_N, vector_ND, build.encoder_digest, build.run)
        vectors = pc.if_else(pa.array(fresh_N), table["embedding"], pa.scalar(None, STAGED.field("embedding").type))
        table = table.set_column(table.column_names.index("embedding"), STAGED.field("embedding"), vectors)
        table = table.set_column(table.column_names.index("instruction"), "instruction", rows["row.instruction"])
        return table.append_column("bucket", pa.array(bucket_of(rows["user_id"], build.buckets))).cast(STAGED)

"""Encodes the buckets of a version on Ray Data.

read (CPU tasks) -> encode and write the bucket's file (actors)

An actor writes what it has encoded before it takes the next bucket, so that a lost process costs one bucket of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import DataContext
from ray.util.metrics import Counter

from ray_ggsm import storage
from ray_ggsm.building.buckets import Bucket, BucketFiles, Built
from ray_ggsm.building.build import Build
from ray_ggsm.building.report import Progress
from ray_ggsm.embedding.embedder import Embedded, Embedder
from ray_ggsm.encoders.kinds import load
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.experiment import RayConfig
from ray_ggsm.log import say
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.soft_prompt import prompts_of
from ray_ggsm.on_ray.building import tasks
from ray_ggsm.on_ray.building.tasks import BUCKET
from ray_ggsm.on_ray.cluster.devices import actor_options, actor_pool, device_of
from ray_ggsm.tables.schema import SCHEMA, rows_to_table


def build_buckets(build: Build, buckets: Sequence[Bucket], resources: RayConfig, progress: Progress) -> Iterator[Built]:
    """Write the files of some buckets; those that an earlier attempt has written are only looked at.

    Args:
        build: the build.
        buckets: what to write.
        resources: number of encoder actors, and the resources of each.
        progress: counts what is done.
    """
    finished, numbers = ray.remote(num_cpus=1)(tasks.finished), set()
    for number, built in _as_they_come([finished.remote(bucket, build) for bucket in buckets]):
        if built is None:
            numbers.add(number)
        else:
            yield built
    waiting = [bucket for bucket in buckets if bucket.number in numbers]
    text = f"{progress.name}: {len(waiting):,} of {len(buckets):,} buckets are to do"
    say(text, buckets=len(buckets), buckets_to_do=len(waiting))
    # nobody's vector is new: no encoder is needed
    write = ray.remote(num_cpus=1)(tasks.write_without_encoding)
    yield from _as_they_come([write.remote(bucket, build) for bucket in waiting if not bucket.fresh])
    if waiting := [bucket for bucket in waiting if bucket.fresh]:
        yield from _encoded(build, waiting, resources, progress)


def _as_they_come(waiting: list[ray.ObjectRef]) -> Iterator[Any]:
    """The results of tasks, of which the driver holds one at a time."""
    while waiting:
        (done,), waiting = ray.wait(waiting)
        yield ray.get(done)


def _encoded(build: Build, buckets: Sequence[Bucket], resources: RayConfig, progress: Progress) -> Iterator[Built]:
    with _whole_buckets():
        written = (
            ray.data.from_items([{BUCKET: bucket.to_json()} for bucket in buckets], override_num_blocks=len(buckets))
            .map_batches(partial(tasks.read, build=build), batch_format="pyarrow", batch_size=None)
            .map_batches(
                _Encode,
                fn_constructor_args=[build, resources],
                batch_format="pyarrow",
                batch_size=None,
                compute=actor_pool(resources, len(buckets)),
                **actor_options(resources),
            )
        )
        for row in written.iter_rows():
            progress.add(row["rows"], row["rows"], row["tokens"])
            yield row["built"]


@contextmanager
def _whole_buckets() -> Iterator[None]:
    """Keep Ray Data from splitting a bucket, and from giving up on actors that die while they start."""
    context = DataContext.get_current()
    changes = {"target_max_block_size": None, "max_consecutive_actor_init_deaths": 3}
    before = {name: getattr(context, name) for name in changes}
    for name, value in changes.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _counter(build: Build, name: str, description: str) -> Counter:
    """A counter of the build; Ray exports it as `ray_ggsm_<name>_total`."""
    labels = {"table": storage.without_credentials(build.table), "run": build.run}
    return Counter(f"ggsm_{name}", description, tuple(labels)).set_default_tags(labels)


class _Encode:
    """Actor that encodes the rows of a bucket and writes its file."""

    def __init__(self, build: Build, resources: RayConfig) -> None:
        self.build, config = build, build.embedding
        encoder = load(build.encoder, build.vectors.open(), device_of(resources), config.mask == "inference")
        if isinstance(encoder, LanguageModel):  # no other encoder has prompts
            instructions = list(config.instructions.values())
            encoder.use_prompts(prompts_of(instructions, SavedEncoder.read(build.encoder)))
        self.embedder = Embedder(encoder, config.tokens_per_batch)
        self.users = _counter(build, "users_embedded", "Users whose vectors were computed")
        self.tokens = _counter(build, "tokens", "Tokens that went through the encoder, without padding")

    def __call__(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Returns what became of the bucket, its encoded rows, and their tokens."""
        size, before = self.build.embedding.rows_per_batch, self.embedder.tokens
        bucket = Bucket.from_json(rows[BUCKET].drop_null()[0].as_py())
        rows = rows.filter(pc.is_null(rows[BUCKET]))
        n = len(self.build.embedding.instructions)
        users = len(rows) // n  # all rows come once per instruction, in the same order
        parts = [
            each
            for start in range(0, users, size)
            for each in self._embedded([rows.slice(k * users + start, min(size, users - start)) for k in range(n)])
        ]
        encoded = pa.concat_tables([part for part, _ in parts]) if parts else SCHEMA.empty_table()
        fits_N = np.concatenate([fits for _, fits in parts]) if parts else np.zeros(0, dtype=bool)
        tokens = self.embedder.tokens - before
        if len(rows):
            self.users.inc(len(rows))
            self.tokens.inc(tokens)
        result = np.empty(1, dtype=object)
        result[0] = BucketFiles(bucket, self.build).write(encoded, fits_N)
        return {"built": result, "rows": np.array([len(rows)]), "tokens": np.array([tokens])}

    def _embedded(self, instructed: list[pa.Table]) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """Some rows, once for each instruction, in the columns of the table, and whether there was memory for each."""
        queries = [rows["query"].unique().to_pylist() for rows in instructed if "query" in rows.column_names]
        if len(queries) > 1 and all(len(each) == 1 for each in queries):
            embedded = self.embedder.questions(instructed[0], [each[0] or "" for each in queries])
        else:  # rows bring queries of their own
            embedded = [self.embedder(rows) for rows in instructed]
        yield from map(self._in_table, instructed, embedded)

    def _in_table(self, rows: pa.Table, embedded: Embedded) -> tuple[pa.Table, np.ndarray]:
        events_N = self.embedder.encoder.events_read(rows)
        table = rows_to_table(
            rows["user_id"], rows["as_of"], "", events_N, rows["row.content"].to_numpy(), embedded.vectors,
            self.build.encoder_digest, self.build.run,
        )  # fmt: skip
        table = table.set_column(table.column_names.index("instruction"), "instruction", rows["row.instruction"])
        return table.cast(SCHEMA), np.asarray(embedded.fits, dtype=bool)

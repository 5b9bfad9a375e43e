"""A night against the bare encode loop, against the script a user would write, and against itself at other sizes.

    pip install sentence-transformers      (for plain)
    python benchmarks/night.py [--users 6000] [--sizes 10000 100000 1000000] [--only bare plain ...] [--json FILE]

    bare      users/s of a night in which everybody is encoded, from ready rows, over those of two processes with one
              thread each that only encode these rows in a loop
    plain     users/s over those of sentence-transformers on rendered histories in Ray Data's map_batches, with that
              script's start and without
    changed   time of a night that encodes 10 % of the users, over that of the first one
    workers   users/s of the two encoder actors of the first night over those of one, one thread each
    requests  requests of a night to an object store with 10, 20 and 40 buckets, for made-up users and a tiny encoder
    start     seconds of the whole job, Ray's start included, for 5,000 made-up users and a tiny encoder: of a night
              already published, and of one of 1 %
    sizes     time per user of the whole job, and peak memory of its driver, for made-up users and a tiny encoder

The first four have Journey's rows (copied under other names up to `--users`) and the language model at step 0,
on a Ray cluster that is up already; event vectors are in the store before anything is timed.
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import boto3
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
import torch
from journey_model import CONFIG, write_plain
from night_world import World

from ray_ggsm import storage
from ray_ggsm.config import load
from ray_ggsm.data.chunks import plan_chunks
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.experiment import Experiment, RayConfig
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.model import saved
from ray_ggsm.model.cpu import use_cpu
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.event_vectors import find
from ray_ggsm.model.events import history_events
from ray_ggsm.model.template import Template
from ray_ggsm.on_ray.cluster.connection import started
from ray_ggsm.on_ray.event_texts import EventEncoding, encode_events
from ray_ggsm.on_ray.prepare import prepare
from ray_ggsm.on_ray.refresh import RefreshConfig, refresh
from ray_ggsm.stages import Pipeline
from ray_ggsm.training.answers import render
from tests.helpers import s3_server as s3

CHUNKS = 40
"""Chunks of a full refresh; fewer where they would have under 500 rows."""
FOUND: dict[str, float] = {}
"""Numbers that `benchmarks/scale.py --measured` takes, by its names (--json)."""
PLAIN = 1024, 3072
"""Users of the plain script: its start is in the former, and not in the difference."""


class Journey:
    """A long-lived table over Journey's users, in a temporary directory."""

    def __init__(self, directory: str, users: int) -> None:
        experiment = load(Experiment, CONFIG, ["ray.embed_workers=2", "ray.cpus_per_embed_worker=1"])
        pipeline = Pipeline.of(experiment)
        prepare(pipeline)
        place = pipeline.prepare
        found = [pq.read_table(file) for s in ("probe", "test") for file in storage.list_files(place.rows(s))]
        rows = pa.concat_tables(found)
        rows = rows.select([name for name in rows.column_names if name != "future"])
        copies = [
            rows.set_column(0, "user_id", pa.array([f"{i}-{n}" for i in range(len(rows))]))
            for n in range(-(-users // len(rows)))
        ]
        self.directory, self.rows = directory, pa.concat_tables(copies).slice(0, users).combine_chunks()
        names = experiment.modalities
        self.template = Template(names, 0, 8)
        events = EventEncoder(experiment.model.event_encoder, torch.device("cpu"))
        features = tuple(f"f{i}" for i in range(len(rows["tabular"][0])))
        mask = BidirectionalConfig(recipe="bidirectional")
        new = saved.new_encoder(experiment.model, mask, names, features, events.width, events.digest, 0)
        saved.save(new, f"{directory}/encoder")
        self.modalities, self.features = [m.name for m in names], len(features)
        self.rows_per_chunk, self.model = max(500, users // CHUNKS), experiment.model
        self.config = RefreshConfig(
            rows=f"{directory}/rows/*.parquet",
            encoder=f"{directory}/encoder",
            table=f"{directory}/users",
            embedding=EncodingConfig(
                rows_per_chunk=self.rows_per_chunk, tokens_per_batch=experiment.embedding.tokens_per_batch
            ),
            ray=experiment.ray,
        )
        self.digest = events.digest
        self.give(self.rows)

    def give(self, rows: pa.Table) -> None:
        """Make rows the input."""
        Path(self.directory, "rows").mkdir(exist_ok=True)
        pq.write_table(rows, f"{self.directory}/rows/part.parquet", row_group_size=self.rows_per_chunk)
        file = f"{self.directory}/rows/part.parquet"
        chunks = plan_chunks([file], self.rows_per_chunk, self.modalities, self.features)
        encoding = EventEncoding(self.model.event_encoder, self.digest, self.config.vectors, self.config.ray)
        encode_events(encoding, chunks, self.modalities)

    def refresh(self, table: str, workers: int = 2) -> float:
        """Seconds of a refresh of the table of this name."""
        resources = self.config.ray.model_copy(update={"embed_workers": workers})
        config = self.config.model_copy(update={"table": f"{self.directory}/{table}", "ray": resources})
        return timed(lambda: refresh(config))

    def bare(self, rows: int) -> float:
        """Seconds per user of two processes with one thread each, which only encode."""
        place = (self.directory, storage.join(self.config.vectors, self.digest), self.config, self.rows)
        halves = [(*place, start, start + rows // 2) for start in (0, rows // 2)]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            return max(pool.map(encode_only, halves)) / (rows // 2 * 2)

    def plain(self, rows: int) -> float:
        """Seconds of the script a user would write, for some of the users."""
        directory = f"{self.directory}/plain"
        width = write_plain(self.model.backbone, directory).hidden_size
        texts = render(history_events(self.rows.slice(0, rows), self.template.modalities), self.modalities)

        class Encode:
            def __init__(self) -> None:
                from sentence_transformers import SentenceTransformer
                from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

                torch.set_num_threads(1)
                transformer = Transformer(directory, model_kwargs={"dtype": torch.bfloat16})
                transformer.max_seq_length = 2048
                self.model = SentenceTransformer(modules=[transformer, Pooling(width, "mean")], device="cpu")

            def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                return {"vector": self.model.encode(batch["text"].tolist(), batch_size=8)}

        blocks = ray.data.from_items([{"text": text} for text in texts], override_num_blocks=8)
        mapped = blocks.map_batches(Encode, batch_size=32, compute=ray.data.ActorPoolStrategy(size=2), num_cpus=1)
        return timed(lambda: mapped.write_parquet(f"{self.directory}/plain_vectors"))

    def changed(self, share: float) -> pa.Table:
        """The rows, a share of them with other numbers."""
        changed_N = np.random.default_rng(1).random(len(self.rows)) < share
        numbers_NF = np.array(self.rows["tabular"].to_pylist(), dtype=np.float32)
        numbers_NF[changed_N] += 1
        column = pa.array(numbers_NF.tolist(), self.rows["tabular"].type)
        return self.rows.set_column(self.rows.column_names.index("tabular"), "tabular", column)


def encode_only(given: tuple[str, str, RefreshConfig, pa.Table, int, int]) -> float:
    """Seconds in which one process with one thread encodes some of the rows, once everything is loaded."""
    directory, vectors, config, rows, first, end = given
    use_cpu(1)
    bundle = saved.load(f"{directory}/encoder", torch.device("cpu"))
    store = find(vectors, config.ray.cache_directory).open()
    embedder, size = (
        Embedder(LanguageModel(bundle, store), config.embedding.tokens_per_batch),
        config.embedding.rows_per_batch,
    )
    embedder(rows.slice(0, 64))
    parts = [rows.take(pa.array(range(start, min(start + size, end)))) for start in range(first, end, size)]
    return timed(lambda: [embedder(part) for part in parts])


def timed(work: Callable[[], object]) -> float:
    """Wall time, seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def sizes(users: list[int]) -> None:
    """Print time per user and the driver's memory for made-up users, one job each."""
    results = []
    for n in users:
        with tempfile.TemporaryDirectory() as directory:
            settings = {"embedding": {"rows_per_chunk": 10_000, "tokens_per_batch": 16_384}}
            world = World(Path(directory), n, 10_000, **settings)
            seconds, memory = watched(world.command())
        results.append((n, seconds))
        print(f"sizes: {n} users in {seconds:.1f} s, driver {memory / 2**20:.0f} MiB", flush=True)
    for (n, a), (m, b) in itertools.pairwise(results):
        print(f"sizes: from {n} to {m} users {1e6 * (b - a) / (m - n):.0f} us for each further one", flush=True)


def requests(users: int) -> None:
    """Print the requests of a first night with rows and table in an object store, by its number of buckets."""
    with s3.s3_server() as server:
        os.environ |= s3.environment(server)
        client = boto3.client("s3")
        counts = []
        for buckets in (10, 20, 40):
            name = f"buckets-{buckets}"
            client.create_bucket(Bucket=name)
            with tempfile.TemporaryDirectory() as directory:
                settings = {
                    "table": f"s3://{name}/users",
                    "event_vectors": f"{directory}/vectors",
                    "publishing": {"rows_per_bucket": users // buckets},
                }
                world = World(Path(directory), users, 1000, **settings)
                s3.requests(server)
                subprocess.run(world.command(), check=True, stdout=subprocess.DEVNULL)
            counts.append(s3.requests(server))
            print(f"requests: {buckets} buckets, {counts[-1]:,} requests", flush=True)
        FOUND["requests_per_bucket"] = (counts[-1] - counts[0]) / 30
        FOUND["requests_per_night"] = counts[0] - 10 * FOUND["requests_per_bucket"]


def start(users: int) -> None:
    """Print what small nights take."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), users, 1000)
        for number, name in enumerate(("the first night", "already published", "1 %", "already published", "1 %")):
            if name == "1 %":
                world.change(0.01, number)
            seconds = watched(world.command())[0]
            FOUND["start_seconds"] = seconds if name == "already published" else FOUND.get("start_seconds", seconds)
            print(f"start: {name}: {seconds:.1f} s", flush=True)


def watched(command: list[str]) -> tuple[float, int]:
    """Seconds of a job, and the most resident bytes of its driver alone, looked at ten times a second."""
    began, most = time.perf_counter(), 0
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while job.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            most = max(most, psutil.Process(job.pid).memory_info().rss)
        time.sleep(0.1)
    assert job.returncode == 0
    return time.perf_counter() - began, most


def main() -> None:
    """Print the ratios."""
    names = ("bare", "plain", "changed", "workers", "requests", "start", "sizes")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--json", help="file for what benchmarks/scale.py takes")
    options = parser.parse_args()
    if "plain" in options.only and options.users < max(PLAIN):
        parser.error(f"--users {options.users}: `plain` needs {max(PLAIN)} or more; give more, or --only without it")
    if set(options.only) - {"sizes", "requests", "start"}:
        with tempfile.TemporaryDirectory() as directory:
            journey_ratios(directory, options.users, options.only)
    if "requests" in options.only:
        requests(2000)
    if "start" in options.only:
        start(5000)
    if "sizes" in options.only:
        sizes(options.sizes)
    if options.json:
        Path(options.json).write_text(json.dumps(FOUND, indent=1) + "\n")


def journey_ratios(directory: str, users: int, only: list[str]) -> None:
    """Print what has Journey's rows."""
    with started(RayConfig()):
        journey = Journey(directory, users)
        bare = [journey.bare(min(users, 8192))] if "bare" in only else []
        first = journey.refresh("users")
        print(f"a first refresh of {users} users: {first:.1f} s, {users / first:.1f} users/s", flush=True)
        if bare:
            bare.append(journey.bare(min(users, 8192)))
            print(f"bare: {1 / bare[0]:.1f} users/s before it, {1 / bare[1]:.1f} after it", flush=True)
            seconds = sum(bare) / 2
            FOUND["night_of_bare"] = seconds * users / first
            print(f"bare: {1 / seconds:.1f} users/s; the refresh has {seconds * users / first:.2f} of that", flush=True)
        if "plain" in only:
            few, many = PLAIN
            start, end = journey.plain(few), journey.plain(many)
            for said, seconds in ((f"{few} users", start / few), ("a further user", (end - start) / (many - few))):
                times = seconds * users / first
                print(f"plain: {1 / seconds:.1f} users/s ({said}); the refresh has {times:.1f} x that", flush=True)
        if "workers" in only:
            one = journey.refresh("one", workers=1)
            FOUND["two_workers"] = one / first
            print(f"workers: one {one:.1f} s, two {first:.1f} s: {one / first:.2f} x", flush=True)
        if "changed" in only:
            journey.give(journey.changed(0.1))
            again = journey.refresh("users")
            print(f"changed: 10 % of the users in {again:.1f} s, {again / first:.3f} of the first night", flush=True)


if __name__ == "__main__":
    main()

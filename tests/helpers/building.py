"""A build without Ray: rows are laid out, given vectors that follow from their content, and written."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm.building.buckets import Bucket, BucketFiles, Built, unchanged
from ray_ggsm.building.build import Build
from ray_ggsm.building.candidate import Candidate
from ray_ggsm.building.layout import LaidOut, Layout
from ray_ggsm.building.shuffle import read_part, write_part
from ray_ggsm.data.chunks import plan_chunks
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.tables import checks, delta, open_table
from ray_ggsm.tables.files import DataFile, DataFileConfig
from ray_ggsm.tables.gates import GatesConfig
from ray_ggsm.tables.metadata import VersionMetadata
from ray_ggsm.tables.publish import published_version
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import SCHEMA, rows_to_table

WIDTH, FEATURES, BUCKETS = 5, 7, 3
MODALITIES = ("bill", "app")
LOOSE = GatesConfig(min_previous_share=0.1, max_departed_share=1.0)


@dataclass
class World:
    """An input file, and a table that is refreshed from it."""

    directory: Path
    embedding: EncodingConfig = field(default_factory=EncodingConfig)
    one_row_each: bool = True
    max_age_days: int | None = None
    files: DataFileConfig = field(default_factory=DataFileConfig)
    encoded: int = 0
    """Rows that were given vectors so far."""
    no_memory_for: tuple[str, ...] = ()
    """Users whose rows do not fit into memory."""

    @property
    def table(self) -> str:
        return str(self.directory / "users")

    def give(self, rows: pa.Table) -> None:
        """Make rows the input."""
        pq.write_table(rows, self.directory / "rows.parquet", row_group_size=2)

    def build(self, run: str) -> Build:
        staging = str(self.directory / "staging" / run)
        store = VectorStore((), str(self.directory / "cache"))
        encoder = ("encoder", "enc1", MODALITIES, FEATURES, "UTC", store)
        place = (run, self.table, staging, BUCKETS, self.one_row_each)
        return Build(self.embedding, self.files, 2000, *encoder, *place, max_age_days=self.max_age_days)

    def lay_out(self, build: Build, previous: EmbeddingTable | None = None, parts: int = 2) -> Layout:
        """The input by bucket; rows that `previous` has keep their vectors."""
        chunks = plan_chunks([str(self.directory / "rows.parquet")], 4, MODALITIES, FEATURES)
        found = [read_part([chunk], build, parts) for chunk in chunks]
        laid_out: list[LaidOut] = []
        for part in range(parts):
            old = previous.data_files() if previous else []
            files = [f"{self.table}/{file.path}" for file in old if file.bucket % parts == part]
            file = f"{build.rows}/part-{part}.parquet"
            laid_out += write_part(build, file, files, *(each[1 + part] for each in found))
        return Layout(tuple(laid_out), sum(each[0] for each in found), previous.version if previous else -1)

    def buckets(self, build: Build, layout: Layout, previous: EmbeddingTable | None) -> list[Bucket]:
        rows: dict[int, list[LaidOut]] = defaultdict(list)
        files: dict[int, list[DataFile]] = defaultdict(list)
        for part in layout.parts:
            rows[part.rows.number].append(part)
        for file in previous.data_files() if previous else ():
            files[file.bucket].append(file)
        return [Bucket(k, tuple(rows[k]), tuple(files[k]), build.part(files[k]), ()) for k in sorted({*rows, *files})]

    def write(self, bucket: Bucket, build: Build) -> Built:
        """Write a bucket, or find it written or as it was."""
        files = BucketFiles(bucket, build)
        found = unchanged(bucket, len(build.embedding.instructions)) or files.finished()
        if found is not None:
            return found
        fresh = files.fresh() if bucket.fresh else []
        rows = encode(fresh, build) if len(fresh) else SCHEMA.empty_table()
        self.encoded += len(rows)
        fits = [user not in self.no_memory_for for user in rows["user_id"].to_pylist()]
        return files.write(rows, np.array(fits, dtype=bool))

    def candidate(self, run: str) -> Candidate:
        """A version of the input, written and not published."""
        previous = open_table(self.table) if delta.exists(self.table) else None
        build = self.build(run)
        layout = self.lay_out(build, previous)
        built = [self.write(bucket, build) for bucket in self.buckets(build, layout, previous)]
        users = sum(part.fresh + sum(part.ages.values()) for part in layout.parts) + layout.rejected
        expected, rejected = (n * len(self.embedding.instructions) for n in (users, layout.rejected))
        check = checks.merge(each.check for each in built)
        return Candidate(build, built, check, previous, previous is not None, expected, rejected)

    def refresh(self, run: str, gates: GatesConfig = LOOSE) -> EmbeddingTable:
        """Publish the input; returns the table."""
        candidate = self.candidate(run)
        candidate.publish(candidate.judge(gates), None, VersionMetadata())
        assert published_version(self.table, run) is not None
        return open_table(self.table)


def encode(rows: pa.Table, build: Build) -> pa.Table:
    """Rows of the table whose unit vectors follow from their content and query."""
    content_N = rows["row.content"].to_numpy()
    queries = rows["query"].to_pylist() if "query" in rows.column_names else [None] * len(rows)
    seeds = [[abs(int(c)), len(query or "")] for c, query in zip(content_N, queries, strict=True)]
    vector_ND = np.array([np.random.default_rng(seed).normal(size=WIDTH) for seed in seeds], np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    keys = (rows["user_id"], rows["as_of"])
    table = rows_to_table(*keys, "", np.ones(len(rows)), content_N, vector_ND, build.encoder_digest, build.run)
    return table.set_column(2, "instruction", rows["row.instruction"])

"""A build without Ray: chunks are read, given vectors that follow from their content, and staged."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm.building.buckets import Bucket, StagedVersion, fill_bucket, parts_of_buckets
from ray_ggsm.building.build import Build
from ray_ggsm.building.candidate import Candidate, count_dead_letters
from ray_ggsm.building.fingerprints import file_fingerprints, is_among
from ray_ggsm.building.rows import STAGED, read_rows, write_staged
from ray_ggsm.data.chunks import Chunk, plan_chunks
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.hashing import bucket_of
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.tables import checks, delta, open_table
from ray_ggsm.tables.files import DataFileConfig
from ray_ggsm.tables.gates import GatesConfig
from ray_ggsm.tables.metadata import VersionMetadata
from ray_ggsm.tables.publish import published_version
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import rows_to_table

WIDTH, FEATURES, BUCKETS = 5, 7, 3
MODALITIES = ("bill", "app")


@dataclass
class World:
    """An input file, and a table that is refreshed from it."""

    directory: Path
    embedding: EncodingConfig = field(default_factory=lambda: EncodingConfig(rows_per_chunk=4))
    one_row_each: bool = True
    encoded: int = 0
    """Rows that were given vectors so far."""

    @property
    def table(self) -> str:
        return str(self.directory / "users")

    def give(self, rows: pa.Table) -> None:
        """Make rows the input."""
        pq.write_table(rows, self.directory / "rows.parquet", row_group_size=2)

    def chunks(self) -> list[Chunk]:
        return plan_chunks([str(self.directory / "rows.parquet")], self.embedding.rows_per_chunk, MODALITIES, FEATURES)

    def build(self, run: str) -> Build:
        staging = str(self.directory / "staging" / run)
        store = VectorStore((), str(self.directory / "cache"))
        return Build(self.embedding, 2000, "encoder", "enc1", MODALITIES, FEATURES, "UTC", store, run, staging, BUCKETS)

    def stage(self, build: Build, chunks: Sequence[Chunk], previous: EmbeddingTable | None = None) -> None:
        """Stage chunks; rows that `previous` has keep their vectors."""
        known_K = file_fingerprints(previous.files()) if previous else np.zeros(0, np.uint64)
        for chunk in chunks:
            rows = read_rows(chunk, build, lambda _, fingerprint_N: is_among(fingerprint_N, known_K)).rows
            if len(rows):
                staged = encode(rows, build)
                self.encoded += len(staged) - staged["embedding"].null_count
                write_staged(staged, np.ones(len(staged), bool), chunk.number, build)

    def fill(self, build: Build, chunks: Sequence[Chunk], previous: EmbeddingTable | None = None) -> StagedVersion:
        """Fill all buckets."""
        parts = parts_of_buckets([build.staged(chunk.number) for chunk in chunks])
        files = previous.data_files() if previous else []
        results = [
            fill_bucket(
                build,
                Bucket(k, parts[k], [file for file in files if file.bucket == k] if previous else None),
                self.table,
                DataFileConfig(),
                one_row_each=self.one_row_each,
            )
            for k in sorted({*parts, *(file.bucket for file in files)})
        ]
        return StagedVersion(tuple(filled for filled, _ in results), checks.merge(check for _, check in results))

    def candidate(self, run: str) -> Candidate:
        """A version of the input, written and not published."""
        previous = open_table(self.table) if delta.exists(self.table) else None
        build, chunks = self.build(run), self.chunks()
        self.stage(build, chunks, previous)
        staged = self.fill(build, chunks, previous)
        expected = sum(chunk.rows for chunk in chunks) * len(self.embedding.instructions)
        return Candidate(self.table, build, staged, previous, previous is not None, expected, count_dead_letters(build))

    def refresh(self, run: str, gates: GatesConfig | None = None) -> EmbeddingTable:
        """Publish the input; returns the table."""
        candidate = self.candidate(run)
        candidate.publish(candidate.judge(gates or GatesConfig(min_previous_share=0.1)), None, VersionMetadata())
        assert published_version(self.table, run) is not None
        return open_table(self.table)


def encode(rows: pa.Table, build: Build) -> pa.Table:
    """Staged rows whose unit vectors follow from their content."""
    content_N = rows["row.content"].to_numpy()
    vector_ND = np.array([np.random.default_rng(abs(int(c))).normal(size=WIDTH) for c in content_N], np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    keys = (rows["user_id"], rows["as_of"])
    table = rows_to_table(*keys, "", np.ones(len(rows)), content_N, vector_ND, build.encoder_digest, build.run)
    null = pa.scalar(None, STAGED.field("embedding").type)
    vectors = pc.if_else(rows["row.is_known"], null, table["embedding"])
    table = table.set_column(3, STAGED.field("embedding"), vectors)
    table = table.set_column(2, "instruction", rows["row.instruction"])
    return table.append_column("bucket", pa.array(bucket_of(rows["user_id"], build.buckets))).cast(STAGED)

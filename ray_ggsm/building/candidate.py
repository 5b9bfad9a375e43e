"""A version that is written and waits: the gates judge it, and one commit publishes it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray_ggsm import storage
from ray_ggsm.building.buckets import StagedVersion
from ray_ggsm.building.build import Build
from ray_ggsm.data.chunks import THREADS, read_footer
from ray_ggsm.tables import gates, publish
from ray_ggsm.tables.gates import GatesConfig, Verdict
from ray_ggsm.tables.reader import EmbeddingTable


@dataclass(frozen=True)
class Candidate:
    """A version that could be published."""

    table: str
    """Location of the table."""
    build: Build
    staged: StagedVersion
    previous: EmbeddingTable | None
    """The version that it was built on; None: there is none."""
    comparable: bool
    """Whether equal rows should have the same vectors as in `previous`."""
    expected_rows: int
    """Rows that the input asks for, dead letters included."""
    dead_letters: int
    """Of these, rows without a vector."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows by what became of them."""
        return {
            "expected": self.expected_rows,
            "written": self.staged.check.rows,
            "dead_letters": self.dead_letters,
            "encoded": sum(bucket.encoded for bucket in self.staged.buckets),
            "departed": sum(bucket.departed for bucket in self.staged.buckets),
        }

    def judge(self, config: GatesConfig) -> list[Verdict]:
        """What the gates say."""
        check = self.staged.check
        return gates.judge(
            config,
            check,
            expected_rows=self.expected_rows,
            dead_letters=self.dead_letters,
            encoder=self.build.encoder_digest,
            previous=gates.published(self.previous, check) if self.previous else None,
            previous_encoder=self.build.encoder_digest if self.comparable else None,
        )

    def publish(self, verdicts: Sequence[Verdict], anyway: str | None, metadata: dict[str, Any]) -> int:
        """Commit the version and return its number.

        Args:
            verdicts: what `judge` gave.
            anyway: why it is published whatever the gates say; recorded with it. None: only if all gates passed.
            metadata: recorded with the version, beside counts and gates.

        Raises:
            GateError: a gate failed; nothing is published, and everything written stays.
        """
        if anyway is None:
            gates.enforce(verdicts)
        before = self.previous.metadata() if self.previous else {}
        check = self.staged.check
        failed = [verdict.gate for verdict in verdicts if not verdict.passed]
        return publish.publish(
            self.table,
            [bucket.file for bucket in self.staged.buckets if bucket.file is not None],
            run=self.build.run,
            buckets=self.build.buckets,
            replaced=[bucket.bucket for bucket in self.staged.buckets if not bucket.kept] if self.previous else None,
            metadata={
                **metadata,
                "encoder": self.build.encoder_digest,
                "width": check.widths[0] if check.widths else before.get("width", 0),
                "normalised": True,
                "counts": self.counts,
                "gates": {verdict.gate: verdict.sentence for verdict in verdicts},
                "failed_gates": failed,
                "published_anyway": anyway if failed else None,
            },
            expected_version=self.previous.version if self.previous else publish.NO_TABLE,
        )


def count_dead_letters(build: Build) -> int:
    """Vectors that are missing for rejected rows, which count once per instruction."""
    files = storage.list_files(build.dead_letters_directory, ".parquet")
    per_row = len(build.embedding.instructions)
    with ThreadPoolExecutor(THREADS) as pool:
        counts = [footer.num_rows for footer in pool.map(read_footer, files)]
    return sum(n * (per_row if f.endswith("-invalid.parquet") else 1) for f, n in zip(files, counts, strict=True))

"""A version that is written and waits: the gates judge it, and one commit publishes it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.building.buckets import StagedVersion
from ray_ggsm.building.build import Build
from ray_ggsm.data.chunks import THREADS, read_footer
from ray_ggsm.tables import checks, gates
from ray_ggsm.tables.gates import GatesConfig, Verdict
from ray_ggsm.tables.metadata import VersionCounts, VersionMetadata
from ray_ggsm.tables.publish import NO_TABLE, NewVersion, publish
from ray_ggsm.tables.reader import EmbeddingTable


@dataclass(frozen=True)
class Candidate:
    """A version that could be published."""

    table: str
    """Location of the table."""
    build: Build
    """The build that made it."""
    staged: StagedVersion
    """Its files."""
    previous: EmbeddingTable | None
    """The version that it was built on; None: there is none."""
    comparable: bool
    """Whether equal rows should have the same vectors as in `previous`."""
    expected_rows: int
    """Rows that the input asks for, dead letters included."""
    dead_letters: int
    """Rows among these that got no vector."""

    @property
    def counts(self) -> VersionCounts:
        """Rows by what became of them."""
        return VersionCounts(
            expected=self.expected_rows,
            written=self.staged.check.rows,
            dead_letters=self.dead_letters,
            encoded=sum(bucket.encoded for bucket in self.staged.buckets),
            departed=sum(bucket.departed for bucket in self.staged.buckets),
        )

    @property
    def unchanged(self) -> bool:
        """Whether it equals the version before, dead letters included."""
        if self.previous is None or not self.staged.unchanged:
            return False
        counts = self.previous.metadata().counts
        return counts is not None and counts.dead_letters == self.dead_letters

    def judge(self, config: GatesConfig) -> list[Verdict]:
        """The verdicts of all gates."""
        check = self.staged.check
        return gates.judge(
            config,
            check,
            expected_rows=self.expected_rows,
            dead_letters=self.dead_letters,
            encoder=self.build.encoder_digest,
            previous=checks.published(self.previous, check) if self.previous else None,
            previous_encoder=self.build.encoder_digest if self.comparable else None,
        )

    def publish(self, verdicts: Sequence[Verdict], anyway: str | None, metadata: VersionMetadata) -> int:
        """Commit the version and return its number.

        Args:
            verdicts: result of `judge`.
            anyway: reason for publishing whatever the gates say, recorded with the version; None: publish only if all
                gates passed.
            metadata: recorded with the version, beside counts and gates.

        Raises:
            GateError: a gate failed; nothing is published, and everything written stays.
        """
        if anyway is None:
            gates.enforce(verdicts)
        failed = tuple(verdict.gate for verdict in verdicts if not verdict.passed)
        buckets = self.staged.buckets
        recorded = {
            "encoder": self.build.encoder_digest,
            "width": self._width(),
            "normalised": True,
            "counts": self.counts,
            "gates": {verdict.gate: verdict.sentence for verdict in verdicts},
            "failed_gates": failed,
            "published_anyway": anyway if failed else None,
        }
        new = NewVersion(
            files=[bucket.file for bucket in buckets if bucket.file is not None],
            run=self.build.run,
            buckets=self.build.buckets,
            replaced=[bucket.bucket for bucket in buckets if not bucket.kept] if self.previous else None,
            metadata=metadata.model_copy(update=recorded),
            expected_version=self.previous.version if self.previous else NO_TABLE,
        )
        return publish(self.table, new)

    def _width(self) -> int:
        """Width of the vectors; that of the version before when no file is new."""
        if widths := self.staged.check.widths:
            return widths[0]
        return (self.previous.metadata().width or 0) if self.previous else 0


def count_dead_letters(build: Build) -> int:
    """Vectors that are missing for rejected rows; an invalid row counts once per instruction."""
    files = storage.list_files(build.dead_letters_directory, ".parquet")
    per_row = len(build.embedding.instructions)
    with ThreadPoolExecutor(THREADS) as pool:
        counts = [footer.num_rows for footer in pool.map(read_footer, files)]
    return sum(n * (per_row if f.endswith("-invalid.parquet") else 1) for f, n in zip(files, counts, strict=True))

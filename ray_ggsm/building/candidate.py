"""A version that is written and waits: the gates judge it, and one commit publishes it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ray_ggsm.building.buckets import Built
from ray_ggsm.building.build import Build
from ray_ggsm.tables import checks, gates
from ray_ggsm.tables.checks import FileCheck
from ray_ggsm.tables.gates import GatesConfig, Verdict
from ray_ggsm.tables.metadata import VersionCounts, VersionMetadata
from ray_ggsm.tables.publish import NO_TABLE, NewVersion, publish
from ray_ggsm.tables.reader import EmbeddingTable


@dataclass(frozen=True)
class Candidate:
    """A version that could be published."""

    build: Build
    """The build that made it."""
    buckets: Sequence[Built]
    """All buckets that have rows now or had some in the version before."""
    check: FileCheck
    """Merged checks of their files."""
    previous: EmbeddingTable | None
    """The version that it was built on; None: there is none."""
    comparable: bool
    """Whether equal rows should have the same vectors as in `previous`."""
    expected_rows: int
    """Rows that the input asks for, dead letters included."""
    rejected: int
    """Rows among these that the input has no valid row for."""

    @property
    def counts(self) -> VersionCounts:
        """Rows by what became of them."""
        return VersionCounts(
            expected=self.expected_rows,
            written=self.check.rows,
            dead_letters=self.rejected + sum(bucket.counts.dead_letters for bucket in self.buckets),
            encoded=sum(bucket.counts.encoded for bucket in self.buckets),
            departed=sum(bucket.counts.departed for bucket in self.buckets),
            new=sum(bucket.counts.new for bucket in self.buckets),
        )

    @property
    def unchanged(self) -> bool:
        """Whether it equals the version before, dead letters included."""
        if self.previous is None or not all(bucket.kept for bucket in self.buckets):
            return False
        counts = self.previous.metadata().counts
        return counts is not None and counts.dead_letters == self.counts.dead_letters

    def judge(self, config: GatesConfig) -> list[Verdict]:
        """The verdicts of all gates."""
        return gates.judge(
            config,
            self.check,
            expected_rows=self.expected_rows,
            dead_letters=self.counts.dead_letters,
            encoder=self.build.encoder_digest,
            previous=checks.published(self.previous, self.check) if self.previous else None,
            previous_encoder=self.build.encoder_digest if self.comparable else None,
            departed={bucket.bucket: (bucket.rows_before, bucket.counts.departed) for bucket in self.buckets},
            max_age_days=self.build.max_age_days,
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
        buckets = self.buckets
        recorded = {
            "encoder": self.build.encoder_digest,
            "width": self._width(),
            "normalised": True,
            "counts": self.counts,
            "ages": dict(sorted(self.check.ages.items())),
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
        return publish(self.build.table, new)

    def _width(self) -> int:
        """Width of the vectors; that of the version before when no file is new."""
        if widths := self.check.widths:
            return widths[0]
        return (self.previous.metadata().width or 0) if self.previous else 0

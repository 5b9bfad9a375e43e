"""The report of a run that publishes: lines while it runs, `report.json` and `report.html` when it ends or fails.

Beside these, Ray exports the counters `ray_ggsm_users_embedded_total` and `ray_ggsm_tokens_total` while a run encodes.
"""

import datetime as dt
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from ray_ggsm import storage
from ray_ggsm.building.run_page import render
from ray_ggsm.log import about, say
from ray_ggsm.progress import bar
from ray_ggsm.tables import delta
from ray_ggsm.tables.metadata import VersionMetadata
from ray_ggsm.tables.reader import EmbeddingTable

LINE_SECONDS = 10.0
"""Time between two lines about progress."""


@dataclass(frozen=True)
class Before:
    """What the version before records about the run that made it; what it does not record is left out."""

    version: int
    run: str | None
    """Run that made its rows."""
    counts: dict[str, int]
    """Rows by what became of them (`VersionCounts`)."""
    seconds: dict[str, float]
    rates: dict[str, float]


@dataclass
class RunReport:
    """One run of jobs/embed.py or jobs/refresh.py."""

    job: str
    """Name of the job."""
    table: str
    """Location of the table."""
    run: str = ""
    """Name of the run."""
    zone: str | None = None
    """Time zone of the days of a table that should be of today; None: it should not."""
    ended: str = ""
    """When the run ended (ISO, UTC)."""
    before: Before | None = None
    """The version that it was built on; None: there was none, or nothing was built."""
    version: int | None = None
    """Published version; None: nothing was published."""
    outcome: str = "running"
    """Result of the run in one sentence, or its error."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Step -> wall time, in the order of the steps."""
    counts: dict[str, int] = field(default_factory=dict)
    """Numbers of rows, buckets, users encoded, tokens, event texts found in the store, ..."""
    rates: dict[str, float] = field(default_factory=dict)
    """Users and tokens per second of the step `encode`."""
    ages: dict[str, int] = field(default_factory=dict)
    """Moment -> vectors of it, in the version that readers see when the run ends."""
    without_vector: dict[str, int] = field(default_factory=dict)
    """Reason -> rows of the input that got no vector."""
    gates: dict[str, str] = field(default_factory=dict)
    """Gate -> its sentence: the value beside its limit."""
    failed_gates: tuple[str, ...] = ()
    """Those that failed."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the block's wall time as a step; a step that is done again takes longer."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 2)

    def begun(self, previous: EmbeddingTable) -> None:
        """Record what the table has before the run changes it."""
        found, made = previous.metadata(), delta.origin(previous.location, previous.version)
        counts = found.counts.model_dump(exclude_unset=True) if found.counts else {}
        self.before = Before(previous.version, made.run if made else None, counts, found.seconds, found.rates)
        self.ages = found.ages

    def published(self, version: int, metadata: VersionMetadata) -> None:
        """Record what a version says about itself."""
        self.version, self.ages = version, metadata.ages
        self.counts |= metadata.counts.model_dump() if metadata.counts else {}
        self.without_vector = metadata.without_vector
        self.gates, self.failed_gates = metadata.gates, metadata.failed_gates

    def encoded(self, progress: "Progress") -> None:
        """Record what was encoded, and how fast."""
        self.counts |= {"rows_read": progress.rows, "users_encoded": progress.encoded, "tokens": progress.tokens}
        if progress.encoded:
            self.rates = {name: round(rate, 1) for name, rate in progress.rates().items()}


@contextmanager
def reported(report: RunReport, location: str) -> Iterator[RunReport]:
    """Write the report to the directory `location` when the block ends, with the error if there is one."""
    start = time.monotonic()
    with about(job=report.job, table=storage.without_credentials(report.table), run=report.run):
        try:
            yield report
        except BaseException as error:
            report.outcome = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
            raise
        finally:
            report.seconds["all"] = round(time.monotonic() - start, 2)
            report.ended = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            storage.write_json(storage.join(location, "report.json"), asdict(report))
            storage.write_text(storage.join(location, "report.html"), render(asdict(report)))
            say(f"{report.job}: {storage.join(location, 'report.html')}")


class Progress:
    """Counts the rows that are done, and prints a line every LINE_SECONDS."""

    def __init__(self, name: str, rows: int) -> None:
        """Start counting; `name` begins each line, `rows` is the number of all rows."""
        self.name, self.all_rows = name, rows
        self.rows = self.encoded = self.tokens = 0
        self.start = self.printed = time.monotonic()

    def add(self, rows: int, encoded: int, tokens: int) -> None:
        """Count finished rows; `encoded` of them were encoded now, with this number of tokens."""
        self.rows, self.encoded, self.tokens = self.rows + rows, self.encoded + encoded, self.tokens + tokens
        now = time.monotonic()
        if now - self.printed >= LINE_SECONDS:
            self.printed = now
            numbers = {"rows": self.rows, "all_rows": self.all_rows, "encoded": self.encoded, "tokens": self.tokens}
            say(self.line(now), seconds=round(now - self.start, 1), **numbers)

    def rates(self) -> dict[str, float]:
        """Users and tokens per second, since the start."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        return {"users_per_second": self.encoded / seconds, "tokens_per_second": self.tokens / seconds}

    def line(self, now: float) -> str:
        """A line that says how much is done, how fast, and how long the rest will take."""
        left = (now - self.start) * (self.all_rows - self.rows) / max(self.rows, 1)
        done = bar(self.rows / max(self.all_rows, 1))
        users, tokens = self.rates().values()
        return (
            f"{self.name}: {done} {self.rows:,} of {self.all_rows:,} rows  {users:,.0f} users/s  {tokens:,.0f} tokens/s"
            f"  {left // 60:.0f}:{left % 60:02.0f} left"
        )

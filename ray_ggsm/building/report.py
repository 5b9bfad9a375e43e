"""The report of a run that publishes: lines while it runs, `report.json` and `report.html` when it ends or fails.

Beside these, Ray exports the counters `ray_ggsm_users_embedded_total` and `ray_ggsm_tokens_total` while a run encodes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from ray_ggsm import html, storage
from ray_ggsm.log import about, say
from ray_ggsm.progress import bar

LINE_SECONDS = 10.0
"""Time between two lines about progress."""


@dataclass
class RunReport:
    """One run of jobs/embed.py or jobs/refresh.py."""

    job: str
    """Name of the job."""
    table: str
    """Location of the table."""
    run: str = ""
    """Name of the run."""
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
    """Moment -> vectors of it."""
    gates: dict[str, str] = field(default_factory=dict)
    """Gate -> its sentence."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Record the block's wall time as a step."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 2)

    def encoded(self, progress: "Progress") -> None:
        """Record what was encoded, and how fast."""
        self.counts |= {"rows_read": progress.rows, "users_encoded": progress.encoded, "tokens": progress.tokens}
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
            storage.write_json(storage.join(location, "report.json"), asdict(report))
            storage.write_text(storage.join(location, "report.html"), render(report))
            say(f"{report.job}: {storage.join(location, 'report.html')}")


def render(report: RunReport) -> str:
    """The report as one HTML page that loads no other file."""
    return html.environment("ray_ggsm.building").get_template("run.html.j2").render(report=report)


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

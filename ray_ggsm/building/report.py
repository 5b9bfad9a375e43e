"""What a run that publishes did: lines while it runs, and `report.json` and `report.html` when it ends, also badly.

Ray's own metrics (Prometheus) have `ray_ggsm_users_embedded`, `ray_ggsm_tokens` and `ray_ggsm_dead_letters` besides.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from ray_ggsm import html, storage
from ray_ggsm.progress import bar

LINE_SECONDS = 10.0


@dataclass
class RunReport:
    """One run of jobs/embed.py or jobs/refresh.py."""

    job: str
    table: str
    run: str = ""
    version: int | None = None
    """None: nothing was published"""
    outcome: str = "running"
    seconds: dict[str, float] = field(default_factory=dict)
    """step -> wall time, in their order"""
    counts: dict[str, int] = field(default_factory=dict)
    """rows, chunks, users encoded, tokens, event texts found in the store, ..."""
    rates: dict[str, float] = field(default_factory=dict)
    """users and tokens per second of the step `encode`"""
    gates: dict[str, str] = field(default_factory=dict)
    """gate -> its sentence"""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count the block's wall time."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 2)

    def encoded(self, progress: "Progress") -> None:
        """Take over what encoding did."""
        self.counts |= {"rows_read": progress.rows, "users_encoded": progress.encoded, "tokens": progress.tokens}
        self.rates = {name: round(rate, 1) for name, rate in progress.rates().items()}


@contextmanager
def reported(report: RunReport, location: str) -> Iterator[RunReport]:
    """Write the report to the directory `location` when the block ends, with the error if there is one."""
    began = time.monotonic()
    try:
        yield report
    except BaseException as error:
        report.outcome = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
        raise
    finally:
        report.seconds["all"] = round(time.monotonic() - began, 2)
        storage.write_json(storage.join(location, "report.json"), asdict(report))
        storage.write_text(storage.join(location, "report.html"), render(report))
        print(f"{report.job}: {storage.join(location, 'report.html')}", flush=True)


def render(report: RunReport) -> str:
    """The report as one HTML page that loads nothing."""
    return html.environment("ray_ggsm.building").get_template("run.html.j2").render(report=report)


class Progress:
    """Counts what is done, and prints a line now and then."""

    def __init__(self, name: str, rows: int) -> None:
        self.name, self.all_rows = name, rows
        self.rows = self.encoded = self.tokens = 0
        self.began = self.printed = time.monotonic()

    def add(self, rows: int, encoded: int, tokens: int) -> None:
        """So many more rows are done; `encoded` of them had to be, of so many tokens."""
        self.rows, self.encoded, self.tokens = self.rows + rows, self.encoded + encoded, self.tokens + tokens
        now = time.monotonic()
        if now - self.printed >= LINE_SECONDS:
            self.printed = now
            print(self.line(now), flush=True)

    def rates(self) -> dict[str, float]:
        """Per second, since the beginning."""
        seconds = max(time.monotonic() - self.began, 1e-9)
        return {"users_per_second": self.encoded / seconds, "tokens_per_second": self.tokens / seconds}

    def line(self, now: float) -> str:
        """What is done, how fast, and how long it will still take."""
        left = (now - self.began) * (self.all_rows - self.rows) / max(self.rows, 1)
        done = bar(self.rows / max(self.all_rows, 1))
        users, tokens = self.rates().values()
        return (
            f"{self.name}: {done} {self.rows:,} of {self.all_rows:,} rows  {users:,.0f} users/s  {tokens:,.0f} tokens/s"
            f"  {left // 60:.0f}:{left % 60:02.0f} left"
        )

"""What nights cost at given users, GPUs and prices, and what breaks next: arithmetic on a few measured numbers.

    python benchmarks/scale.py [--users 1e8 1e9] [--gpus 8 64] [--gpu-price 1.5] [--measured FILE.json] ...

Numbers that were measured stand in docs/results/measured.json with their sources (`python benchmarks/night.py --json
FILE` measures some of them anew; --measured lays such a file over them). All others are options, and their help says
where they come from. **No GPU was ever measured**: the speed of one is an input. Nothing was run at these sizes.
`docs/scale.md` shows the result.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEASURED = Path(__file__).parents[1] / "docs" / "results" / "measured.json"
SECONDS = 3600


@dataclass(frozen=True)
class Model:
    """A decoder's shape; the defaults are Qwen2.5-0.5B's."""

    layers: int = 24
    width: int = 896
    inner: int = 4864
    heads: int = 14
    key_heads: int = 2
    head_width: int = 64

    def flops(self, tokens: float) -> float:
        """Operations of one forward pass over a sequence."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.key_heads)
        per_token = 2 * self.layers * (attention + 3 * self.width * self.inner)
        return tokens * per_token + 4 * self.layers * self.heads * self.head_width * tokens**2


@dataclass(frozen=True)
class Measured:
    """Numbers that were measured, on two CPU cores."""

    night_of_bare: float
    """Users/s of a night over those of a loop that only encodes."""
    two_workers: float
    """How many times as fast as one encoder two are."""
    requests_per_bucket: float
    """Requests to the object store for each further bucket."""
    requests_per_night: float
    """Requests of a night without buckets."""
    start_seconds: float
    """Of a night that finds nothing to do, Ray's start included."""
    row_cpu_seconds: float
    """Processor seconds in which one user row is made of events."""
    log_bytes_per_file: float
    """What a commit's log says of a file."""

    @classmethod
    def read(cls, *files: Path) -> "Measured":
        """The numbers of some files: number, or {value, source}; later files count more."""
        found: dict[str, float] = {}
        for file in files:
            for name, value in json.loads(file.read_text()).items():
                found[name] = float(value["value"] if isinstance(value, dict) else value)
        return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})


@dataclass(frozen=True)
class Asked:
    """What is asked; the defaults and sources of all but users and GPUs are those of the options."""

    users: float
    gpus: int
    users_per_second: float
    """Of one GPU that only encodes: never measured."""
    changed: float
    width: int
    bytes_per_value: float
    bytes_per_row: float
    rows_per_bucket: float
    retention_days: float
    bandwidth: float
    cpus_per_gpu: float
    gpu_price: float
    cpu_price: float
    get_price: float
    put_price: float
    storage_price: float


@dataclass(frozen=True)
class Night:
    """What one night takes."""

    encode_hours: float
    rows_hours: float
    move_hours: float
    requests: float
    dollars: float

    @property
    def hours(self) -> float:
        """Of all steps, one after the other; data move while others encode."""
        return max(self.encode_hours, self.move_hours) + self.rows_hours


PUTS_PER_BUCKET = 2
"""Of its requests: the rows of the bucket, and its file. What a conditional put or a list costs is that of a put."""


def night(measured: Measured, asked: Asked, share: float) -> Night:
    """A night in which a share of the users is encoded."""
    rate = asked.users_per_second * asked.gpus * measured.night_of_bare
    if asked.gpus > 1:
        rate *= measured.two_workers / 2
    encode = asked.users * share / rate / SECONDS
    rows = asked.users * share * measured.row_cpu_seconds / (asked.gpus * asked.cpus_per_gpu) / SECONDS
    vectors = asked.users * asked.width * asked.bytes_per_value
    moved = (
        asked.users * share * 3 * asked.bytes_per_row + 2 * vectors
    )  # rows: written, read twice; vectors: old and new
    move = moved / (max(1, asked.gpus // 8) * asked.bandwidth * 1e9) / SECONDS
    buckets = asked.users / asked.rows_per_bucket
    requests = measured.requests_per_night + measured.requests_per_bucket * buckets
    puts = PUTS_PER_BUCKET * buckets
    hours = max(encode, move) + rows + measured.start_seconds / SECONDS
    machines = asked.gpus * (asked.gpu_price + asked.cpus_per_gpu * asked.cpu_price)
    dollars = hours * machines + (requests - puts) / 1e3 * asked.get_price + puts / 1e3 * asked.put_price
    return Night(encode, rows + measured.start_seconds / SECONDS, move, requests, dollars)


def stored_terabytes(asked: Asked) -> float:
    """Vectors of the newest version, and of the versions of the retention, of which each replaced all files."""
    return asked.users * asked.width * asked.bytes_per_value * (1 + asked.retention_days) / 1e12


def limits(measured: Measured, asked: Asked, window: float) -> Iterator[tuple[str, float]]:
    """What ends somewhere -> the number of users at which, with these GPUs and prices; `window`: hours of a night."""
    one = night(measured, asked, asked.changed)
    fixed = measured.start_seconds / SECONDS
    yield (
        f"a night of {window:g} h: more GPUs, or fewer users a night (`carry`)",
        (asked.users * (window - fixed) / (one.hours - fixed)),
    )
    full = night(measured, asked, 1)
    yield (
        "a full refresh (new encoder) within a weekend of 48 h: more GPUs for it",
        (asked.users * (48 - fixed) / (full.hours - fixed)),
    )
    yield (
        "a commit's log of 100 MB, which every reader fetches: larger buckets",
        (100e6 / measured.log_bytes_per_file * asked.rows_per_bucket),
    )
    yield (
        "a million pieces of the shuffle of rows that are given, in Ray's object store: rows of events need none",
        (1e6**0.5 * 131_072),
    )
    yield "100,000 buckets, a task and a few entries on the driver each: larger buckets", 1e5 * asked.rows_per_bucket


def row(measured: Measured, asked: Asked) -> list[str]:
    """One line of the table of costs."""
    full, usual = night(measured, asked, 1), night(measured, asked, asked.changed)
    stored = stored_terabytes(asked)
    return [
        f"{asked.users:,.0f}",
        f"{asked.gpus}",
        f"{full.hours:,.1f} h",
        f"${full.dollars:,.0f}",
        f"{usual.hours:,.2f} h",
        f"{usual.encode_hours:,.2f} / {usual.rows_hours:,.2f} / {usual.move_hours:,.2f} h",
        f"${usual.dollars:,.0f}",
        f"{usual.requests / 1e3:,.0f} k",
        f"{stored:,.2f} TB",
        f"${stored * 1e3 * asked.storage_price:,.0f}",
        f"${30 * usual.dollars + stored * 1e3 * asked.storage_price:,.0f}",
    ]


TITLES = [
    "users", "GPUs", "full refresh", "costs", "a night", "encode / rows / data", "costs", "requests", "stored",
    "a month", "all in a month",
]  # fmt: skip


def options_() -> argparse.ArgumentParser:
    """The options, each with its source."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--measured", type=Path, help="JSON file with some of the measured numbers (benchmarks/night.py --json)")
    add("--users", type=float, nargs="+", default=[1e8, 1e9])
    add("--gpus", type=int, nargs="+", default=[8, 64])
    add("--users-per-second", type=float, help="of one GPU that only encodes; default: from the next three")
    add("--tokens", type=float, default=400, help="mean tokens per user (Journey: 57; the paper's template: up to 690)")
    add("--peak", type=float, default=312, help="TFLOP/s of one GPU in bf16 (data sheet of an A100)")
    add("--utilisation", type=float, default=0.35, help="share of it that is reached: an assumption, not measured")
    add("--changed", type=float, default=0.4, help="share of users that a night encodes (Journey, max_age_days 7: .41)")
    add("--width", type=int, default=896, help="of the vectors (Qwen2.5-0.5B)")
    add("--bytes-per-value", type=float, default=3.7, help="stored (found once, width 128; float16: 2.1)")
    add("--bytes-per-row", type=float, default=5000, help="Parquet bytes of one user row (Journey: 731 at 57 tokens)")
    add("--rows-per-bucket", type=float, default=16_384, help="publishing.rows_per_bucket")
    add("--retention-days", type=float, default=30, help="of `tables.py vacuum`")
    add("--bandwidth", type=float, default=2.0, help="GB/s between one node of 8 GPUs and the store: an assumption")
    add("--cpus-per-gpu", type=float, default=12, help="cores beside each GPU (a common size of nodes)")
    add("--gpu-price", type=float, default=1.5, help="US dollars per GPU and hour: put in yours")
    add("--cpu-price", type=float, default=0.04, help="US dollars per core and hour: put in yours")
    add("--get-price", type=float, default=0.0004, help="US dollars per 1,000 GET requests")
    add("--put-price", type=float, default=0.005, help="US dollars per 1,000 PUT requests")
    add("--storage-price", type=float, default=0.023, help="US dollars per GB and month")
    add("--window", type=float, default=4, help="hours that a night may take")
    return parser


def main() -> None:
    """Print two Markdown tables: what it costs, and what breaks next."""
    options = options_().parse_args()
    measured = Measured.read(MEASURED, *([options.measured] if options.measured else []))
    rate = options.users_per_second or options.peak * 1e12 * options.utilisation / Model().flops(options.tokens)
    names = {field.name for field in dataclasses.fields(Asked)} - {"users", "gpus", "users_per_second"}
    same = {name: getattr(options, name) for name in names}
    every = [Asked(u, g, rate, **same) for u in options.users for g in options.gpus]
    print(f"One GPU encodes {rate:,.0f} users/s (an input: no GPU was measured).\n")
    print("| " + " | ".join(TITLES) + " |\n" + "|---" * len(TITLES) + "|")
    for asked in every:
        print("| " + " | ".join(row(measured, asked)) + " |")
    print("\n| GPUs | breaks at so many users | what |\n|---|---|---|")
    for asked in every[: len(options.gpus)]:
        for what, users in sorted(limits(measured, asked, options.window), key=lambda limit: limit[1]):
            print(f"| {asked.gpus} | {users / 1e6:,.0f} million | {what} |")


if __name__ == "__main__":
    main()

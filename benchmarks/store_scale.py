"""Files, requests and log sizes of an event store at 100 million users and 90 days: a calculation from a few numbers.

    python benchmarks/store_scale.py [--users 1e8] [--days 90] [--buckets 2048] [--tables 5] [--events 5.9] ...

Every number that enters is an option, with its source in the help. Nothing here was run at this size. `docs/scale.md`
shows the result with the default options.
"""

import argparse


def lines(o: argparse.Namespace) -> list[tuple[str, str]]:
    """What is counted, and how much it is."""
    events_a_day = o.users * o.events
    files_a_day = o.tables * o.buckets
    weeks, rest = divmod(o.days, 7)
    files = o.tables * o.buckets * (weeks + rest)
    per_bucket_day = events_a_day * o.bytes_per_event / o.buckets / o.tables
    return [
        ("events a day", f"{events_a_day:,.0f}"),
        ("bytes of a day", f"{events_a_day * o.bytes_per_event / 1e9:,.0f} GB"),
        ("events of a bucket in all days", f"{events_a_day * o.days / o.buckets:,.0f}"),
        ("users of a bucket", f"{o.users / o.buckets:,.0f}"),
        ("files that a day writes", f"{files_a_day:,} of {per_bucket_day / 1e6:.2f} MB"),
        ("files without `compact`", f"{files_a_day * o.days:,}"),
        ("files with `compact --days 7` every week", f"{files:,}"),
        ("writes of a day: files, commits, manifest", f"{files_a_day + o.tables + 1:,}"),
        ("log of a day", f"{files_a_day * o.bytes_per_action / 1e6:,.1f} MB in {o.tables} commits"),
        ("log that a job's driver reads: all files once", f"{files * o.bytes_per_action / 1e6:,.0f} MB"),
        ("files that a bucket's task opens", f"{files / o.buckets:,.0f}"),
        ("reads of a prepare (a footer and the columns each)", f"{2 * files:,}"),
        ("manifests", f"{o.days + weeks:,}"),
    ]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--users", type=float, default=1e8)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--buckets", type=int, default=2048)
    parser.add_argument("--tables", type=int, default=5)
    parser.add_argument("--events", type=float, default=5.9, help="per user and day; configs/simulate.yaml")
    parser.add_argument("--bytes-per-event", type=float, default=15.3, help="in the store; benchmarks/ingest.py")
    parser.add_argument("--bytes-per-action", type=float, default=427, help="of a file in a Delta log; measured there")
    found = lines(parser.parse_args())
    width = max(len(name) for name, _ in found)
    for name, value in found:
        print(f"{name:{width}}  {value}")


if __name__ == "__main__":
    main()

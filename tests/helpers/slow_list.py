"""Writes tests/slow.txt, the tests that `make test-fast` leaves out, from the durations of a run of all others:

python -m pytest -n 2 --dist loadfile -m "not cluster" --durations=0 | python -m tests.helpers.slow_list
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterable

from tests.helpers import ROOT

FILE = ROOT / "tests" / "slow.txt"
SECONDS = 0.3
"""What a test function takes at least, with all of its parameters and their fixtures, to be slow."""
FIXTURE_SECONDS = 4.0
"""What a fixture takes at least for its whole file to be slow: its other tests would have to make it."""
DURATION = re.compile(r"([\d.]+)s (call|setup|teardown) +(tests/[\w/]+\.py)::(\w+)")


def slow_tests(lines: Iterable[str]) -> list[str]:
    """FILE or FILE::FUNCTION of the slow tests in pytest's output, sorted."""
    seconds: defaultdict[str, float] = defaultdict(float)
    files = set()
    for took, phase, file, function in (found.groups() for found in filter(None, map(DURATION.match, lines))):
        seconds[f"{file}::{function}"] += float(took)
        if phase == "setup" and float(took) >= FIXTURE_SECONDS:
            files.add(file)
    return sorted(files | {name for name, total in seconds.items() if total >= SECONDS})


if __name__ == "__main__":
    found = slow_tests(sys.stdin)
    if not found:
        sys.exit("no durations in the input; run pytest with --durations=0")
    FILE.write_text("\n".join(found) + "\n")
    print(f"{len(found)} slow tests in {FILE}")

"""Query-answer pairs of user rows, and the tables that hold them.

`rows/` is what training reads: user rows, once per pair, with the columns `query` and `answer` (and `scenario`).
`pairs/` has the pairs alone, for people.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from ray_ggsm.data.schema import KEYS

PAIRS = pa.schema(
    [
        *KEYS,
        pa.field("scenario", pa.string()),
        pa.field("query", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("verdict", pa.string()),
    ]
)
"""One row per pair; verdict: keep, or rewrite for a pair that was rewritten."""
FAILED = pa.schema(
    [*KEYS, pa.field("step", pa.string()), pa.field("reason", pa.string()), pa.field("detail", pa.string()),
     pa.field("raw", pa.string())]
)  # fmt: skip
"""What gave no pair: at which step, why, and what the model had written."""


@dataclass(frozen=True)
class Pair:
    """A question about a user, with its answer."""

    row: int
    """Position of the user's row."""
    scenario: str
    query: str
    answer: str
    verdict: str = "keep"


@dataclass(frozen=True)
class NoPair:
    """What gave no pair."""

    row: int
    """Position of the user's row."""
    step: str
    """choose, write or revise."""
    reason: str
    detail: str
    raw: str
    lost: int = 1
    """Pairs that were asked for and do not come."""


@dataclass(frozen=True)
class Written:
    """What some rows gave."""

    pairs: list[Pair]
    failed: list[NoPair]


def pairs_table(rows: pa.Table, pairs: Sequence[Pair]) -> pa.Table:
    """The pairs with their keys (PAIRS)."""
    chosen = _of(rows, [pair.row for pair in pairs])
    texts = [[getattr(pair, name) for pair in pairs] for name in ("scenario", "query", "answer", "verdict")]
    return pa.table([*chosen.columns, *(pa.array(column, pa.string()) for column in texts)], schema=PAIRS)


def failed_table(rows: pa.Table, failed: Sequence[NoPair]) -> pa.Table:
    """What gave no pair, with its keys (FAILED)."""
    chosen = _of(rows, [each.row for each in failed])
    texts = [[getattr(each, name) for each in failed] for name in ("step", "reason", "detail", "raw")]
    return pa.table([*chosen.columns, *(pa.array(column, pa.string()) for column in texts)], schema=FAILED)


def main_reasons(failed: pa.Table, most: int = 3) -> str:
    """Why most of what failed (FAILED) gave no pair, as a part of a sentence; each reason with an example."""
    whys = list(zip(*(failed[name].to_pylist() for name in ("step", "reason")), strict=True))
    examples = dict(zip(whys[::-1], failed["detail"].to_pylist()[::-1], strict=True))
    told = [
        f"{step}: {reason} ({n:,}, for example: {examples[step, reason]})"
        for (step, reason), n in Counter(whys).most_common(most)
    ]
    return "; ".join(told) or "nothing failed: there was nothing to ask about"


def training_rows(rows: pa.Table, pairs: Sequence[Pair]) -> pa.Table:
    """The user rows of the pairs, once per pair, with `query`, `answer` and `scenario`."""
    kept = rows.drop_columns([name for name in ("query", "answer", "scenario") if name in rows.column_names])
    chosen = kept.take(pa.array([pair.row for pair in pairs], pa.int64()))
    for name in ("query", "answer", "scenario"):
        chosen = chosen.append_column(name, pa.array([getattr(pair, name) for pair in pairs], pa.string()))
    return chosen


def _of(rows: pa.Table, index: list[int]) -> pa.Table:
    keys = rows.select([key.name for key in KEYS]).take(pa.array(index, pa.int64()))
    return keys.cast(pa.schema(KEYS))

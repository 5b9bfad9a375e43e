"""How good are the pairs? Counts per part of the rows, and measures of a sample.

`quotes_future` and `not_in_history` look for contents (texts of events and of their parts) in answers: a content of
the row's future that its history does not have, and any content that its history does not have. Long contents are
looked for first, and as whole words: "frozen pizza" does not name "pizza", and "price" does not name "rice". Counted
pairs quote the future on purpose; those of a language model, which never sees it, can only guess.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pydantic import Field

from ray_ggsm.config import Record
from ray_ggsm.model.events import future_events, history_events
from ray_ggsm.model.modality import Modality
from ray_ggsm.synthesis.asking import REFUSED, Spent
from ray_ggsm.synthesis.counted import tallies
from ray_ggsm.synthesis.pairs import Pair, Written

SHORTEST = 4
"""Characters of the shortest content that is looked for; shorter ones occur by chance."""


class PartCounts(Record):
    """What some user rows gave."""

    rows: int = 0
    pairs: int = 0
    rewritten: int = 0
    """Pairs that the check against the history changed."""
    failed: dict[str, int] = Field(default_factory=dict)
    """step and reason -> what gave no pair."""
    lost: int = 0
    """Pairs that were asked for and did not come; a failed request can lose all pairs of a user."""
    scenarios: dict[str, int] = Field(default_factory=dict)
    """Scenario -> pairs."""
    quotes_future: int = 0
    """Pairs whose answer names a content that is in the future and not in the history."""
    not_in_history: int = 0
    """Pairs whose answer names a content that is not in the history."""
    requests: dict[str, int] = Field(default_factory=dict)
    """`Spent` -> number."""

    @property
    def refused(self) -> int:
        """Requests that were refused."""
        return sum(n for reason, n in self.failed.items() if reason.endswith(f": {REFUSED}"))


def counts_of(rows: pa.Table, written: Written, modalities: Sequence[Modality], spent: Spent) -> PartCounts:
    """The counts of what some rows gave."""
    named = _Named(rows, modalities)
    return PartCounts(
        rows=len(rows),
        pairs=len(written.pairs),
        rewritten=sum(pair.verdict == "rewrite" for pair in written.pairs),
        failed=dict(Counter(f"{each.step}: {each.reason}" for each in written.failed)),
        lost=sum(each.lost for each in written.failed),
        scenarios=dict(Counter(pair.scenario for pair in written.pairs)),
        quotes_future=sum(named.quotes_future(pair) for pair in written.pairs),
        not_in_history=sum(named.not_in_history(pair) for pair in written.pairs),
        requests=dict(vars(spent)),
    )


def total(parts: Sequence[PartCounts]) -> PartCounts:
    """The sum."""
    sums: dict[str, int] = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("rows", "pairs", "rewritten", "lost", "quotes_future", "not_in_history")
    }
    tables: dict[str, dict[str, int]] = {}
    for name in ("failed", "scenarios", "requests"):
        found: Counter[str] = Counter()
        for part in parts:
            found.update(getattr(part, name))
        tables[name] = dict(found.most_common())
    return PartCounts(**sums, **tables)


class _Named:
    """Which contents answers name."""

    def __init__(self, rows: pa.Table, modalities: Sequence[Modality]) -> None:
        self.history = _contents(tallies(history_events(rows, modalities), len(rows)))
        future = future_events(rows, modalities) if "future" in rows.column_names else None
        self.future = _contents(tallies(future, len(rows))) if future is not None else [set()] * len(rows)
        self.known = set().union(*self.history, *self.future)

    def quotes_future(self, pair: Pair) -> bool:
        """As in `PartCounts`."""
        return bool(self._named(pair.answer) & self.future[pair.row] - self.history[pair.row])

    def not_in_history(self, pair: Pair) -> bool:
        """As in `PartCounts`."""
        return not self._named(pair.answer) <= self.history[pair.row]

    def _named(self, answer: str) -> set[str]:
        """The contents that an answer names, without those that are a part of a longer one only."""
        left, found = answer.lower(), set()
        for content in sorted((each for each in self.known if each in left), key=len, reverse=True):
            rest, n = re.subn(rf"(?<!\w){re.escape(content)}(?!\w)", "\n", left)
            if n:
                found.add(content)
                left = rest
        return found


def _contents(tallied: Sequence[Sequence[object]]) -> list[set[str]]:
    return [
        {text.lower() for tally in row for text in tally.contents if len(text) >= SHORTEST}  # type: ignore[attr-defined]
        for row in tallied
    ]


@dataclass(frozen=True)
class Sample:
    """Some pairs, measured."""

    pairs: int
    query_words: list[int]
    """Quartiles: lower, median, upper."""
    answer_words: list[int]
    distinct_queries: float
    """Share."""
    distinct_answers: float
    examples: list[dict[str, str]] = field(default_factory=list)
    """Pairs to read, without keys."""


def sampled(pairs: pa.Table, examples: int = 20) -> Sample | None:
    """The measures of a table of pairs; None without any."""
    n = len(pairs)
    if not n:
        return None
    queries, answers = pairs["query"].to_pylist(), pairs["answer"].to_pylist()
    chosen = pairs.select(["scenario", "query", "answer", "verdict"]).take(pa.array(range(0, n, max(1, n // examples))))
    return Sample(
        n, _quartiles(queries), _quartiles(answers), len(set(queries)) / n, len(set(answers)) / n,
        chosen.to_pylist()[:examples],
    )  # fmt: skip


def _quartiles(texts: Sequence[str]) -> list[int]:
    words = sorted(len(text.split()) for text in texts)
    return [words[round(share * (len(words) - 1))] for share in (0.25, 0.5, 0.75)]

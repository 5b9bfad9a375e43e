"""Pairs that a language model writes. Paper, 3.2: eq. 1-2, and steps 3 and 4.

Per user row: one request chooses scenarios, one writes a pair for each, one checks the pairs against the history. What
a reply leaves out, says twice or says of nothing is told as what gave no pair.
"""

from collections.abc import Sequence

import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.synthesis import formats
from ray_ggsm.synthesis.asking import NOT_JSON, Asker, Failed, Spent
from ray_ggsm.synthesis.author import Guide
from ray_ggsm.synthesis.chat import Ask
from ray_ggsm.synthesis.pairs import NoPair, Pair, Written
from ray_ggsm.synthesis.requests import Requests

UNKNOWN_POSITION = "no_such_position"
"""The reply names something that was not in the list."""
MISSING = "missing"
"""The reply has not as many as it was asked for."""
DUPLICATE = "duplicate"
"""The reply has more than one for the same."""
DROPPED = "dropped"
"""The check against the history says that the pair does not hold."""
NOT_JUDGED = "without_verdict"
NOT_REWRITTEN = "empty_rewrite"
"""The check says that the pair must be rewritten, and not how."""


class WrittenPairs:
    """A language model as an `Author`."""

    def __init__(self, asker: Asker, requests: Requests) -> None:
        """Take the model, and what it is asked."""
        self.asker, self.requests = asker, requests

    @property
    def spent(self) -> Spent:
        """As in `Author`."""
        return self.asker.spent

    def scenarios(self) -> tuple[str, ...]:
        """As in `Author`.

        Raises:
            InputError: the model gives no list.
        """
        (found,) = self.asker.ask([self.requests.scenarios()])
        if isinstance(found, Failed):
            raise InputError(
                f"client: the model gave no list of scenarios ({found.detail}); it wrote: {found.raw[:200]}"
            )
        assert isinstance(found, formats.Scenarios)
        return tuple(dict.fromkeys(found.scenarios))[: self.requests.config.scenarios]

    def write(self, rows: pa.Table, guide: Guide) -> Written:
        """As in `Author`."""
        histories = self.requests.histories(rows)
        count = self.requests.per_user(guide.pool)
        choices = self.asker.ask([self.requests.choose(history, guide.pool) for history in histories])
        failed: list[NoPair] = []
        chosen: dict[int, list[str]] = {}
        for row, choice in enumerate(choices):
            if isinstance(choice, Failed):
                failed.append(_no_pair(row, "choose", choice, count))
                continue
            assert isinstance(choice, formats.Choice)
            found, missing = _chosen(row, choice, guide.pool, count)
            failed += missing
            if found:
                chosen[row] = found
        asks = [self.requests.write(histories[row], some, guide.rules) for row, some in chosen.items()]
        pairs: list[Pair] = []
        for (row, some), reply in zip(chosen.items(), self.asker.ask(asks), strict=True):
            if isinstance(reply, Failed):
                failed.append(_no_pair(row, "write", reply, len(some)))
                continue
            assert isinstance(reply, formats.Pairs)
            written = _written(row, reply, some)
            pairs += written.pairs
            failed += written.failed
        return Written(pairs, failed)

    def induce(self, hard: Sequence[Pair]) -> tuple[str, ...]:
        """As in `Author`: from batches of hard pairs, then merged.

        Raises:
            InputError: the model gives no rules, or refuses some. All later pairs would be written without them.
        """
        size, count = self.requests.config.hard_batch, self.requests.config.rules
        if not hard or not count:
            return ()
        asks = [self.requests.induce(hard[first : first + size]) for first in range(0, len(hard), size)]
        rules = tuple(dict.fromkeys(rule for each in self._rules(asks) for rule in each.rules))
        if len(rules) <= count:
            return rules
        (merged,) = self._rules([self.requests.merge(rules)])
        return merged.rules[:count]

    def _rules(self, asks: Sequence[Ask]) -> list[formats.Rules]:
        """The replies that fit; one that does not, after its repair, is left out beside others that do."""
        replies = self.asker.ask(asks)
        found = [each for each in replies if isinstance(each, formats.Rules)]
        failed = [each for each in replies if isinstance(each, Failed)]
        lasting = [each for each in failed if each.reason != NOT_JSON]
        if lasting or not found:
            first = (lasting or failed)[0]
            raise InputError(
                f"client: {len(failed)} of {len(replies)} requests for rules of hard pairs gave none ({first.reason}: "
                f"{first.detail}); pairs.hard_batch makes them smaller, pairs.rules: 0 does without rules; what was "
                "answered is kept"
            )
        return found

    def revise(self, rows: pa.Table, written: Written) -> Written:
        """As in `Author`."""
        of_row: dict[int, list[Pair]] = {}
        for pair in written.pairs:
            of_row.setdefault(pair.row, []).append(pair)
        histories = self.requests.histories(rows)
        asks = [self.requests.revise(histories[row], pairs) for row, pairs in of_row.items()]
        kept: list[Pair] = []
        failed = list(written.failed)
        for (row, pairs), found in zip(of_row.items(), self.asker.ask(asks), strict=True):
            if isinstance(found, Failed):
                failed.append(_no_pair(row, "revise", found, len(pairs)))
                continue
            assert isinstance(found, formats.Verdicts)
            for n, pair in enumerate(pairs):
                judged = _judged(pair, [verdict for verdict in found.verdicts if verdict.pair == n])
                (kept if isinstance(judged, Pair) else failed).append(judged)  # type: ignore[arg-type]
        return Written(kept, failed)


def _no_pair(row: int, step: str, failed: Failed, lost: int) -> NoPair:
    return NoPair(row, step, failed.reason, failed.detail, failed.raw, lost)


def _chosen(
    row: int, choice: formats.Choice, pool: Sequence[str], count: int
) -> tuple[list[str], list[NoPair]]:  # fmt: skip
    """The scenarios of a choice, and one `NoPair` for each that it lacks."""
    known = [pool[n] for n in dict.fromkeys(choice.chosen) if n < len(pool)][:count]
    reason = UNKNOWN_POSITION if any(n >= len(pool) for n in choice.chosen) else MISSING
    lack = NoPair(row, "choose", reason, f"{len(known)} of {count} scenarios of the list", str(list(choice.chosen)))
    return known, [lack] * (count - len(known))


def _written(row: int, reply: formats.Pairs, scenarios: Sequence[str]) -> Written:
    """The first pair of each scenario, and what the reply has besides, or lacks."""
    pairs: dict[int, Pair] = {}
    failed: list[NoPair] = []
    for pair in reply.pairs:
        n, raw = pair.scenario, pair.model_dump_json()
        if n >= len(scenarios):
            failed.append(NoPair(row, "write", UNKNOWN_POSITION, f"scenario {n}", raw, lost=0))
        elif n in pairs:
            failed.append(NoPair(row, "write", DUPLICATE, scenarios[n], raw, lost=0))
        else:
            pairs[n] = Pair(row, scenarios[n], pair.query, pair.answer)
    failed += [NoPair(row, "write", MISSING, each, "") for n, each in enumerate(scenarios) if n not in pairs]
    return Written(list(pairs.values()), failed)


def _judged(pair: Pair, verdicts: Sequence[formats.Verdict]) -> Pair | NoPair:
    """The pair as it was or rewritten, or why there is none."""

    def none(reason: str, detail: str = "") -> NoPair:
        return NoPair(pair.row, "revise", reason, detail, f"{pair.query} {pair.answer}")

    if not verdicts:
        return none(NOT_JUDGED, "the reply has no verdict on this pair")
    if len(verdicts) > 1:
        return none(DUPLICATE, f"the reply has {len(verdicts)} verdicts on this pair")
    verdict = verdicts[0]
    if verdict.verdict == "drop":
        return none(DROPPED)
    if verdict.verdict == "keep":
        return pair
    if not verdict.query and not verdict.answer:
        return none(NOT_REWRITTEN, "neither a query nor an answer")
    query, answer = verdict.query or pair.query, verdict.answer or pair.answer
    return Pair(pair.row, pair.scenario, query, answer, "rewrite")

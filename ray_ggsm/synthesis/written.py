"""Pairs that a language model writes. Paper, 3.2: eq. 1-2, and steps 3 and 4.

Per user row: one request chooses scenarios, one writes a pair for each, one checks the pairs against the history. The
model sees the history alone, never the future, labels or a user's id.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.encoders.rendered import row_texts
from ray_ggsm.model.modality import Modality
from ray_ggsm.synthesis import formats
from ray_ggsm.synthesis.asking import Asker, Failed, Spent
from ray_ggsm.synthesis.author import Guide
from ray_ggsm.synthesis.chat import Ask
from ray_ggsm.synthesis.clients import conversation, model_of
from ray_ggsm.synthesis.config import LanguageModelConfig, PairsConfig
from ray_ggsm.synthesis.pairs import NoPair, Pair, Written
from ray_ggsm.synthesis.prompts import Prompts, as_data

UNKNOWN_POSITION = "no_such_position"
"""The reply names something that was not in the list."""
DROPPED = "dropped"
"""The check against the history says that the pair does not hold."""
NOT_JUDGED = "without_verdict"


class WrittenPairs:
    """A language model as an `Author`."""

    def __init__(
        self, asker: Asker, client: LanguageModelConfig, config: PairsConfig, prompts: Prompts,
        modalities: Sequence[Modality], seed: int,
    ) -> None:  # fmt: skip
        """Take the model and the prompts; `seed` is that of its sampling."""
        self.asker, self.client, self.config, self.prompts = asker, client, config, prompts
        self.modalities, self.seed = tuple(modalities), seed

    @property
    def spent(self) -> Spent:
        """As in `Author`."""
        return self.asker.spent

    def scenarios(self) -> tuple[str, ...]:
        """As in `Author`.

        Raises:
            InputError: the model gives no list.
        """
        ask = self._ask("scenarios", formats.Scenarios, {}, self._exactly(self.config.scenarios))
        (found,) = self.asker.ask([ask])
        if isinstance(found, Failed):
            raise InputError(
                f"client: the model gave no list of scenarios ({found.detail}); it wrote: {found.raw[:200]}"
            )
        assert isinstance(found, formats.Scenarios)
        return tuple(dict.fromkeys(found.scenarios))[: self.config.scenarios]

    def write(self, rows: pa.Table, guide: Guide) -> Written:
        """As in `Author`."""
        histories = self._histories(rows)
        count = min(self.config.per_user, len(guide.pool))
        choices = self.asker.ask([
            self._ask(
                "choose", formats.Choice, {"history": history, "scenarios": guide.pool},
                self._exactly(count, len(guide.pool)),
            )
            for history in histories
        ])  # fmt: skip
        failed: list[NoPair] = []
        chosen: dict[int, list[str]] = {}
        for row, choice in enumerate(choices):
            if isinstance(choice, Failed):
                failed.append(_no_pair(row, "choose", choice))
                continue
            assert isinstance(choice, formats.Choice)
            known = dict.fromkeys(n for n in choice.chosen if n < len(guide.pool))
            if not known:
                failed.append(NoPair(row, "choose", UNKNOWN_POSITION, "no scenario of the list", str(choice.chosen)))
                continue
            chosen[row] = [guide.pool[n] for n in known][:count]
        asks = [
            self._ask("write", formats.Pairs, {
                "history": histories[row], "scenarios": some, **({"rules": guide.rules} if guide.rules else {}),
            }, self._exactly(len(some), len(some)))
            for row, some in chosen.items()
        ]  # fmt: skip
        pairs: list[Pair] = []
        for (row, some), found in zip(chosen.items(), self.asker.ask(asks), strict=True):
            if isinstance(found, Failed):
                failed.append(_no_pair(row, "write", found))
                continue
            assert isinstance(found, formats.Pairs)
            for pair in found.pairs:
                if pair.scenario < len(some):
                    pairs.append(Pair(row, some[pair.scenario], pair.query, pair.answer))
                else:
                    raw = pair.model_dump_json()
                    failed.append(NoPair(row, "write", UNKNOWN_POSITION, f"scenario {pair.scenario}", raw))
        return Written(pairs, failed)

    def induce(self, hard: Sequence[Pair]) -> tuple[str, ...]:
        """As in `Author`: from batches of hard pairs, then merged. What fails is left out."""
        if not hard or not self.config.rules:
            return ()
        size, count = self.config.hard_batch, self.config.rules
        asks = [
            self._ask("induce", formats.Rules, {
                "pairs": [{"query": pair.query, "answer": pair.answer} for pair in hard[first : first + size]],
            }, self._up_to(count))
            for first in range(0, len(hard), size)
        ]  # fmt: skip
        found = [each for each in self.asker.ask(asks) if isinstance(each, formats.Rules)]
        rules = tuple(dict.fromkeys(rule for each in found for rule in each.rules))
        if len(rules) <= count:
            return rules
        (merged,) = self.asker.ask([self._ask("merge", formats.Rules, {"rules": rules}, self._up_to(count))])
        return (merged.rules if isinstance(merged, formats.Rules) else rules)[:count]

    def revise(self, rows: pa.Table, written: Written) -> Written:
        """As in `Author`."""
        of_row: dict[int, list[Pair]] = {}
        for pair in written.pairs:
            of_row.setdefault(pair.row, []).append(pair)
        histories = self._histories(rows)
        asks = [
            self._ask("revise", formats.Verdicts, {
                "history": histories[row], "pairs": [{"query": p.query, "answer": p.answer} for p in pairs],
            }, self._exactly(len(pairs), len(pairs)))
            for row, pairs in of_row.items()
        ]  # fmt: skip
        kept: list[Pair] = []
        failed = list(written.failed)
        for (row, pairs), found in zip(of_row.items(), self.asker.ask(asks), strict=True):
            if isinstance(found, Failed):
                failed.append(_no_pair(row, "revise", found))
                continue
            assert isinstance(found, formats.Verdicts)
            verdicts = {verdict.pair: verdict for verdict in found.verdicts}
            for n, pair in enumerate(pairs):
                judged = _judged(pair, verdicts.get(n))
                (kept if isinstance(judged, Pair) else failed).append(judged)  # type: ignore[arg-type]
        return Written(kept, failed)

    def _histories(self, rows: pa.Table) -> list[list[str]]:
        """Each row's newest events, a line each."""
        texts = row_texts(rows, self.modalities, (), self.client.events)
        return [text.split("\n") for text in texts]

    def _exactly(self, items: int, positions: int | None = None) -> formats.Limits:
        return formats.Limits(items, items, self.client.longest_text, positions)

    def _up_to(self, items: int) -> formats.Limits:
        return formats.Limits(1, items, self.client.longest_text)

    def _ask(
        self, prompt: str, form: type[formats.Reply], data: Mapping[str, object], limits: formats.Limits
    ) -> Ask:  # fmt: skip
        c = self.client
        messages = conversation(self.prompts.filled(prompt, count=limits.most), as_data(**data))
        return Ask(messages, form, limits, model_of(c), c.max_reply_tokens, c.temperature, self.seed)


def _no_pair(row: int, step: str, failed: Failed) -> NoPair:
    return NoPair(row, step, failed.reason, failed.detail, failed.raw)


def _judged(pair: Pair, verdict: formats.Verdict | None) -> Pair | NoPair:
    """The pair as it was or rewritten, or why there is none."""
    raw = f"{pair.query} {pair.answer}"
    if verdict is None:
        return NoPair(pair.row, "revise", NOT_JUDGED, "the reply has no verdict on this pair", raw)
    if verdict.verdict == "drop":
        return NoPair(pair.row, "revise", DROPPED, "", raw)
    if verdict.verdict == "keep":
        return pair
    query, answer = verdict.query or pair.query, verdict.answer or pair.answer
    return Pair(pair.row, pair.scenario, query, answer, "rewrite")

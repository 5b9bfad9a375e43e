"""What a language model is asked for pairs: a prompt, and one document with the history of a user.

Histories alone are told, never the future, labels or a user's id.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ray_ggsm.encoders.rendered import event_lines
from ray_ggsm.model.modality import Modality
from ray_ggsm.synthesis import formats
from ray_ggsm.synthesis.chat import Ask
from ray_ggsm.synthesis.clients import conversation, model_of
from ray_ggsm.synthesis.config import LanguageModelConfig, PairsConfig
from ray_ggsm.synthesis.pairs import Pair
from ray_ggsm.synthesis.prompts import Prompts, as_data

STAND_IN = "a sentence " * 14
"""Stands for a scenario, a rule, a question or an answer that is not written yet."""

History = Sequence[str]
"""A user's newest events, told one by one."""


class Requests:
    """All requests."""

    def __init__(
        self, client: LanguageModelConfig, config: PairsConfig, prompts: Prompts, modalities: Sequence[Modality],
        seed: int,
    ) -> None:  # fmt: skip
        """Take the prompts; `seed` is that of the model's sampling."""
        self.client, self.config, self.prompts = client, config, prompts
        self.modalities, self.seed = tuple(modalities), seed

    def histories(self, rows: pa.Table) -> list[list[str]]:
        """Each row's newest events."""
        return event_lines(rows, self.modalities, self.client.events)

    def per_user(self, pool: Sequence[str]) -> int:
        """Scenarios that are chosen for a row."""
        return min(self.config.per_user, len(pool))

    def scenarios(self) -> Ask:
        """The pool (step 1)."""
        return self._ask("scenarios", formats.Scenarios, {}, self._exactly(self.config.scenarios))

    def choose(self, history: History, pool: Sequence[str]) -> Ask:
        """Scenarios for a user (eq. 1)."""
        limits = self._exactly(self.per_user(pool), len(pool))
        return self._ask("choose", formats.Choice, {"history": history, "scenarios": pool}, limits)

    def write(self, history: History, scenarios: Sequence[str], rules: Sequence[str]) -> Ask:
        """A pair for each of them (eq. 2)."""
        data = {"history": history, "scenarios": scenarios, **({"rules": rules} if rules else {})}
        return self._ask("write", formats.Pairs, data, self._exactly(len(scenarios), len(scenarios)))

    def induce(self, hard: Sequence[Pair]) -> Ask:
        """Rules that hard pairs have in common (step 3)."""
        return self._ask("induce", formats.Rules, {"pairs": _told(hard)}, self._up_to(self.config.rules))

    def merge(self, rules: Sequence[str]) -> Ask:
        """The rules of several such requests in one list."""
        return self._ask("merge", formats.Rules, {"rules": rules}, self._up_to(self.config.rules))

    def revise(self, history: History, pairs: Sequence[Pair]) -> Ask:
        """A verdict on each pair of a user (step 4)."""
        data = {"history": history, "pairs": _told(pairs)}
        return self._ask("revise", formats.Verdicts, data, self._exactly(len(pairs), len(pairs)))

    def of_rows(self, rows: pa.Table, rules: int) -> list[Ask]:
        """All requests for some rows, before any is answered: what the model has yet to write is `STAND_IN`."""
        pool = [STAND_IN] * self.config.scenarios
        chosen = pool[: self.per_user(pool)]
        pairs = [Pair(0, STAND_IN, STAND_IN, STAND_IN)] * len(chosen)
        asks = []
        for history in self.histories(rows):
            asks += [self.choose(history, pool), self.write(history, chosen, [STAND_IN] * rules)]
            asks += [self.revise(history, pairs)] if self.config.rewriting else []
        return asks

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


def _told(pairs: Sequence[Pair]) -> list[dict[str, str]]:
    return [{"query": pair.query, "answer": pair.answer} for pair in pairs]

"""Pairs without a language model: questions about a user whose answers are counted, so they are true by construction.

A scenario is a modality and a form of question. Answers about the future are made from the row's own future, as
behaviour pairs are (paper, 3.1), never from labels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from ray_ggsm.hashing import hash64
from ray_ggsm.model.events import Events, future_events, history_events, row_keys
from ray_ggsm.model.modality import Modality
from ray_ggsm.synthesis.asking import Spent
from ray_ggsm.synthesis.author import Guide
from ray_ggsm.synthesis.config import PairsConfig, RulesConfig
from ray_ggsm.synthesis.pairs import Pair, Written

NUMBERS = ((20, "20 or more"), (10, "10 to 19"), (5, "5 to 9"), (2, "2 to 4"), (1, "1"), (0, "no"))
"""Least number of events, and what it is called."""
SOON = (
    (1, "within a day"),
    (3, "within 3 days"),
    (7, "within a week"),
    (14, "within two weeks"),
    (31, "within a month"),
)
"""Days until the first event, and what that is called."""
COUNTED = "texts, parts and fields; amounts below zero"
"""How pairs are counted; another text means other pairs."""
OFTEN = ((5, "many times"), (2, "several times"), (1, "once"))


@dataclass
class Tally:
    """What one row has of one modality."""

    events: int = 0
    contents: Counter[str] = field(default_factory=Counter)
    """Texts of events and of their parts -> events that have them; of events with neither, values of text fields."""
    amount: float = 0.0
    """Sum of all amounts."""
    has_amounts: bool = False
    first_day: float | None = None
    """Days until the first event of a future."""


@dataclass(frozen=True)
class _User:
    """What a question is made from."""

    modality: str
    past: Tally
    future: Tally
    days: int
    """That the future covers."""
    listed: int
    """Contents that an answer lists at most."""
    asked: str | None
    """The content that is asked about."""


def _what_next(user: _User) -> tuple[str, str]:
    return (
        f"What will this user's {user.modality} be about in the next {user.days} days?",
        f"{user.modality}: {_listed(user.future.contents, user.listed)}",
    )


def _what_so_far(user: _User) -> tuple[str, str]:
    return (
        f"What was this user's {user.modality} about so far?",
        f"{user.modality} so far: {_listed(user.past.contents, user.listed)}",
    )


def _how_many(user: _User) -> tuple[str, str]:
    number = next(name for least, name in NUMBERS if user.future.events >= least)
    return (
        f"How much {user.modality} will there be from this user in the next {user.days} days?",
        f"{number} {user.modality} in {user.days} days",
    )


def _how_soon(user: _User) -> tuple[str, str]:
    first = user.future.first_day
    when = "not at all" if first is None else next((name for days, name in SOON if first <= days), "later")
    return f"When will this user's next {user.modality} come?", f"{user.modality}: {when}"


def _how_much(user: _User) -> tuple[str, str]:
    return (
        f"What will this user's {user.modality} add up to in the next {user.days} days?",
        f"{user.modality} worth {_magnitude(user.future.amount)} in {user.days} days",
    )


def _whether(user: _User) -> tuple[str, str]:
    times = user.future.contents[user.asked or ""]
    often = next((name for least, name in OFTEN if times >= least), None)
    return (
        f"Will '{user.asked}' be in this user's {user.modality} in the next {user.days} days?",
        f"{user.asked}: yes, {often}" if often else f"{user.asked}: no",
    )


FORMS: Mapping[str, Callable[[_User], tuple[str, str]]] = {
    "what next": _what_next,
    "whether": _whether,
    "how many": _how_many,
    "how soon": _how_soon,
    "how much": _how_much,
    "what so far": _what_so_far,
}
"""Form -> its question and answer. All but the last are about the future."""


class CountedPairs:
    """Counting rules as an `Author`."""

    def __init__(
        self, client: RulesConfig, config: PairsConfig, modalities: Sequence[Modality], with_future: Sequence[str],
        future_days: int, seed: int,
    ) -> None:  # fmt: skip
        """Take what is asked about.

        Args:
            client: how much an answer says.
            config: how many pairs.
            modalities: what is read of each kind of event.
            with_future: modalities whose events are also in the rows' `future`.
            future_days: days that futures cover.
            seed: decides which questions a row gets.
        """
        self.client, self.config, self.modalities = client, config, tuple(modalities)
        self.with_future, self.future_days, self.seed, self.spent = tuple(with_future), future_days, seed, Spent()

    def scenarios(self) -> tuple[str, ...]:
        """As in `Author`: every modality with every form that it can answer."""
        found = []
        for modality in self.modalities:
            forms = [form for form in FORMS if form == "what so far" or modality.name in self.with_future]
            found += [f"{modality.name}: {form}" for form in forms]
        return tuple(found)

    def write(self, rows: pa.Table, guide: Guide) -> Written:
        """As in `Author`. Each row gets the scenarios that come first in an order of its own."""
        past = tallies(history_events(rows, self.modalities), len(rows))
        future = tallies(future_events(rows, self.modalities), len(rows))
        seen = [sum((row[m].contents for row in future), Counter()) for m in range(len(self.modalities))]
        names = [m.name for m in self.modalities]
        pairs: list[Pair] = []
        for row, key in enumerate(row_keys(rows).tolist()):
            order = np.argsort(hash64(f"{self.seed} {key} {scenario}" for scenario in guide.pool), kind="stable")
            of_row: list[Pair] = []
            for scenario in (guide.pool[n] for n in order.tolist()):
                name, _, form = scenario.partition(": ")
                m = names.index(name)
                draw = int(hash64([f"{self.seed} {key} {scenario} content"])[0])
                asked = _asked(future[row][m].contents, seen[m], draw) if form == "whether" else None
                if (form == "whether" and asked is None) or (form == "how much" and not future[row][m].has_amounts):
                    continue
                user = _User(name, past[row][m], future[row][m], self.future_days, self.client.contents, asked)
                of_row.append(Pair(row, scenario, *FORMS[form](user)))
                if len(of_row) == self.config.per_user:
                    break
            pairs += of_row
        return Written(pairs, [])

    def induce(self, hard: Sequence[Pair]) -> tuple[str, ...]:
        """As in `Author`: counted pairs follow no rules."""
        return ()

    def revise(self, rows: pa.Table, written: Written) -> Written:
        """As in `Author`: counted pairs hold."""
        return written


def tallies(events: Events, rows: int) -> list[list[Tally]]:
    """What each row has of each modality: [row][modality]."""
    found = [[Tally() for _ in range(len(events.count_MB))] for _ in range(rows)]
    texts = events.text_E.to_pylist()
    parts = events.parts_E.to_pylist() if events.parts_E is not None else [None] * len(texts)
    fields = [column.to_pylist() for column in events.fields.values() if pa.types.is_string(column.type)]
    bounds = np.concatenate([[0], np.cumsum(events.count_MB.reshape(-1))]).tolist()
    for cell, (start, end) in enumerate(pairwise(bounds)):
        tally = found[cell % rows][cell // rows]
        tally.events = end - start
        for e in range(start, end):
            contents = {texts[e], *(part["text"] for part in parts[e] or ())} - {None}
            tally.contents.update(contents or {column[e] for column in fields} - {None})
            if not np.isnan(amount := float(events.amount_E[e])):
                tally.amount, tally.has_amounts = tally.amount + amount, True
        if start < end:
            tally.first_day = float(-events.age_E[start:end].max())
    return found


def _asked(own: Counter[str], seen: Counter[str], draw: int) -> str | None:
    """The content to ask about: every other time one that occurs, else one of other rows, by how often it occurs."""
    if draw % 2 and own:
        return sorted(own)[draw // 2 % len(own)]
    others = sorted(seen.items())
    if not others:
        return None
    ends = np.cumsum([count for _, count in others])
    return others[int(np.searchsorted(ends, draw // 2 % int(ends[-1]), side="right"))][0]


def _listed(contents: Counter[str], limit: int) -> str:
    """The most frequent contents, of equally frequent ones the first by name."""
    most = sorted(contents.items(), key=lambda item: (-item[1], item[0]))[:limit]
    return ", ".join(text for text, _ in most) or "nothing"


def _magnitude(amount: float) -> str:
    """The range of 1, 2, 5, 10, 20, 50, ... that an amount lies in."""
    if amount < 0:
        return f"minus {_magnitude(-amount)}"
    if not amount:
        return "nothing"
    steps = [base * 10**power for power in range(-2, 13) for base in (1, 2, 5)]
    low = max((step for step in steps if step <= amount), default=None)
    if low is None:
        return f"less than {steps[0]:g}"
    return f"{low:,.13g} to {steps[steps.index(low) + 1]:,.13g}" if low != steps[-1] else f"{low:,.13g} or more"

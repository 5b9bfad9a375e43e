"""Counted pairs against plain loops over the rows."""

import datetime as dt
import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.config import build
from ray_ggsm.data.schema import event_type, future_type
from ray_ggsm.encoders.rendered import row_texts
from ray_ggsm.model.events import history_events
from ray_ggsm.model.modality import Modality
from ray_ggsm.synthesis.asking import Spent
from ray_ggsm.synthesis.author import Guide
from ray_ggsm.synthesis.config import DifficultyConfig, PairsConfig, RulesConfig
from ray_ggsm.synthesis.counted import CountedPairs, _magnitude, tallies
from ray_ggsm.synthesis.difficulty import distances, hard, pair_texts, threshold
from ray_ggsm.synthesis.pairs import Pair, Written
from ray_ggsm.synthesis.quality import counts_of, total
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 50), Modality("app", 50))
DAYS = 80


def author(per_user: int = 100, seed: int = 0) -> CountedPairs:
    config = build(PairsConfig, {"per_user": per_user}, "test")
    return CountedPairs(RulesConfig(kind="rules"), config, MODALITIES, ["bill", "app"], DAYS, seed)


def pairs(rows: pa.Table, **settings: int) -> list[Pair]:
    writer = author(**settings)
    return writer.write(rows, Guide(writer.scenarios())).pairs


def future(row: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [event for event in row["future"] if event["modality"] == name]


def answer(row: dict[str, Any], scenario: str, query: str) -> str:
    """The right answer to a question, counted anew."""
    name, form = scenario.split(": ")
    events = future(row, name)
    if form == "what so far":
        return f"{name} so far: {most(row[name])}"
    if form == "what next":
        return f"{name}: {most(events)}"
    if form == "how many":
        n = len(events)
        word = str(n) if n == 1 else "no" if n == 0 else "2 to 4" if n < 5 else "5 to 9" if n < 10 else "10 to 19"
        return f"{word} {name} in {DAYS} days"
    if form == "how much":
        total = sum(event["amount"] for event in events if event["amount"] is not None)
        ends = [1, 2, 5, 10, 20, 50, 100]
        low = max(end for end in ends if end <= total)
        return f"{name} worth {low} to {ends[ends.index(low) + 1]} in {DAYS} days"
    if form == "how soon":
        if not events:
            return f"{name}: not at all"
        days = min(event["time"] - row["as_of"] for event in events) / dt.timedelta(days=1)
        for limit, word in ((1, "a day"), (3, "3 days"), (7, "a week"), (14, "two weeks"), (31, "a month")):
            if days <= limit:
                return f"{name}: within {word}"
        return f"{name}: later"
    content = re.findall("'(.*)' be", query)[0]
    times = sum(event["text"] == content for event in events)
    words = {0: "no", 1: "yes, once"}
    return f"{content}: {words.get(times, 'yes, several times' if times < 5 else 'yes, many times')}"


def most(events: list[dict[str, Any]]) -> str:
    counts = Counter(event["text"] for event in events)
    return ", ".join(sorted(counts, key=lambda text: (-counts[text], text))[:5]) or "nothing"


def test_answers_are_those_of_plain_counting() -> None:
    rows = user_rows(40, most=16)
    made, plain = pairs(rows), rows.to_pylist()
    assert {pair.scenario for pair in made} == {*author().scenarios()}
    for pair in made:
        assert pair.answer == answer(plain[pair.row], pair.scenario, pair.query), pair


def test_contents_that_come_and_that_do_not_are_asked_about() -> None:
    found = [pair for pair in pairs(user_rows(200)) if pair.scenario.endswith("whether")]
    share = np.mean([": yes" in pair.answer for pair in found])
    assert 0.3 < share < 0.75


def test_questions_of_a_row_depend_on_the_row_and_the_seed_alone() -> None:
    rows = user_rows(6)
    together = pairs(rows, per_user=4)
    assert all(sum(pair.row == row for pair in together) == 4 for row in range(6))
    alone = pairs(rows.slice(3, 1), per_user=4)
    mine = [pair for pair in together if pair.row == 3]
    assert [pair.scenario for pair in alone] == [pair.scenario for pair in mine]
    assert [pair.scenario for pair in pairs(rows, per_user=4, seed=1)] != [pair.scenario for pair in together]


def test_modalities_without_a_future_are_asked_about_the_past_only() -> None:
    config = build(PairsConfig, {}, "test")
    writer = CountedPairs(RulesConfig(kind="rules"), config, MODALITIES, ["bill"], DAYS, 0)
    assert [s for s in writer.scenarios() if s.startswith("app")] == ["app: what so far"]


@pytest.mark.parametrize(("amount", "told"), [
    (0, "nothing"), (0.001, "less than 0.01"), (1, "1 to 2"), (1.99, "1 to 2"), (2, "2 to 5"), (7, "5 to 10"),
    (1234, "1,000 to 2,000"), (5e12, "5,000,000,000,000 or more"),
])  # fmt: skip
def test_magnitudes(amount: float, told: str) -> None:
    assert _magnitude(amount) == told


def test_parts_of_an_event_are_its_contents() -> None:
    time = dt.datetime(2024, 3, 2, tzinfo=dt.UTC)
    parts = [{"text": "milk", "weight": 1.0}, {"text": "bread", "weight": 2.0}, {"text": "milk", "weight": 1.0}]
    event = {"time": time, "text": None, "amount": 4.0, "parts": parts}
    one = pa.struct([
        ("time", pa.timestamp("us", "UTC")), ("text", pa.string()), ("amount", pa.float32()),
        ("parts", pa.list_(pa.struct([("text", pa.string()), ("weight", pa.float32())]))),
    ])  # fmt: skip
    coming = pa.struct([("modality", pa.string()), *one])
    rows = pa.table({
        "user_id": ["u"], "as_of": pa.array([dt.datetime(2024, 3, 1, tzinfo=dt.UTC)], pa.timestamp("us", "UTC")),
        "bill": pa.array([[]], pa.list_(one)), "tabular": pa.array([[]], pa.list_(pa.float32())),
        "future": pa.array([[{"modality": "bill", **event}] * 2], pa.list_(coming)),
    })  # fmt: skip
    config = build(PairsConfig, {"per_user": 100}, "test")
    writer = CountedPairs(RulesConfig(kind="rules"), config, [Modality("bill", 9, parts=True)], ["bill"], DAYS, 0)
    answers = {pair.scenario: pair.answer for pair in writer.write(rows, Guide(writer.scenarios())).pairs}
    assert answers["bill: what next"] == "bill: bread, milk"
    assert answers["bill: whether"] in ("milk: yes, several times", "bread: yes, several times")
    assert answers["bill: how many"] == f"2 to 4 bill in {DAYS} days"


def test_difficulty_is_one_minus_the_cosine() -> None:
    """Eq. 3, with an embedding that counts letters."""

    def embed(texts: Any) -> np.ndarray:
        return np.array([[text.count(letter) for letter in "abcdeimt"] for text in texts], dtype=np.float32)

    rows, some = user_rows(3), [Pair(0, "s", "ab", "ba"), Pair(2, "s", "aab", "deed"), Pair(2, "s", "tie", "time")]
    got = distances(*(embed(side) for side in pair_texts(rows, some, MODALITIES)))
    users = row_texts(rows, MODALITIES, (), 100)
    for pair, found in zip(some, got, strict=True):
        u, v = embed([f"{pair.query}\n{users[pair.row]}"])[0].astype(float), embed([pair.answer])[0].astype(float)
        assert found == pytest.approx(1 - u @ v / math.sqrt((u @ u) * (v @ v)))
    limits = [0.1, 0.3, 0.5, 0.9]
    sizes = [len(hard(some, got, limit)) for limit in limits]
    assert sizes == sorted(sizes, reverse=True)
    assert threshold(np.array([0.0, 0.5, 1.0]), DifficultyConfig(quantile=0.5)) == 0.5
    assert threshold(np.array([0.0, 0.5, 1.0]), DifficultyConfig(threshold=0.2)) == 0.2


def test_equal_texts_are_not_hard() -> None:
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float16)
    np.testing.assert_allclose(distances(x, x), 0, atol=1e-12)
    np.testing.assert_allclose(distances(x, -x), 2, atol=1e-12)
    u, v = x[0].astype(float), x[1].astype(float)
    np.testing.assert_allclose(distances(x[:1], x[1:2]), 1 - u @ v / np.sqrt(u @ u * (v @ v)))


def row_of(name: str, kind: pa.StructType, past: list[dict], coming: list[dict]) -> pa.Table:
    """One row with events of one modality."""
    stamped = [{"modality": name, **event} for event in coming]
    return pa.table({
        "user_id": ["u"], "as_of": pa.array([dt.datetime(2024, 3, 1, tzinfo=dt.UTC)], pa.timestamp("us", "UTC")),
        name: pa.array([past], pa.list_(kind)), "tabular": pa.array([[]], pa.list_(pa.float32())),
        "future": pa.array([stamped], pa.list_(future_type(kind))),
    })  # fmt: skip


def event(text: str | None, day: dt.date = dt.date(2024, 2, 1), **more: object) -> dict[str, object]:
    return {"time": dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC), "text": text, "amount": None, **more}


def test_events_of_fields_alone_are_counted_by_their_values() -> None:
    """They once were "nothing", beside "2 to 4 card"; and amounts below zero were "nothing"."""
    kind = event_type("UTC", pa.struct([("merchant", pa.string()), ("bonus", pa.float64())]))
    modality = Modality("card", 9, text_fields=("merchant",), number_fields=("bonus",))
    config = build(PairsConfig, {"per_user": 100}, "test")
    writer = CountedPairs(RulesConfig(kind="rules"), config, [modality], ["card"], DAYS, 0)

    def answers(*amounts: float) -> dict[str, str]:
        past = [
            event(None, fields={"merchant": "cafe", "bonus": 1.0}),
            event(None, fields={"merchant": None, "bonus": 1.0}),
        ]
        day = dt.date(2024, 3, 2)
        coming = [
            event(None, day, fields={"merchant": "shop", "bonus": 1.0}) | {"amount": amount} for amount in amounts
        ]
        rows = row_of("card", kind, past, coming)
        return {pair.scenario: pair.answer for pair in writer.write(rows, Guide(writer.scenarios())).pairs}

    got = answers(20.0, -20.0)
    assert got["card: what so far"] == "card so far: cafe"
    assert got["card: what next"] == "card: shop"
    assert got["card: whether"] == "shop: yes, several times"
    assert got["card: how much"] == f"card worth nothing in {DAYS} days"
    assert answers(-60.0, -50.0)["card: how much"] == f"card worth minus 100 to 200 in {DAYS} days"


def test_text_and_parts_of_an_event_are_both_contents() -> None:
    both = event("big shop", parts=[{"text": "milk", "weight": 1.0}])
    rows = row_of("bill", event_type("UTC", None, True), [both], [])
    modalities = [Modality("bill", 9, parts=True)]
    ((tally,),) = tallies(history_events(rows, modalities), 1)
    assert tally.contents == {"big shop": 1, "milk": 1}


def test_a_content_is_named_by_whole_words() -> None:
    rows = pa.concat_tables([row_of("bill", event_type("UTC"), [event(text)], []) for text in ("rice", "milk")])
    some = [Pair(1, "s", "q", "looks for milk at a low price"), Pair(1, "s", "q", "rice, and milk")]
    assert counts_of(rows, Written(some, []), [Modality("bill", 9)], Spent()).not_in_history == 1


def test_what_answers_name_is_counted() -> None:
    rows = user_rows(30)
    plain = rows.to_pylist()
    texts = [f"sure: {event['text']}." for row in plain for event in [*row["bill"], *row["app"], *row["future"]]][:60]
    some = [Pair(n % 30, "s", "q", text) for n, text in enumerate(texts)]
    got = counts_of(rows, Written(some, []), MODALITIES, Spent(asked=3))
    known = {event["text"] for row in plain for event in [*row["bill"], *row["app"], *row["future"]]}

    def named(pair: Pair, contents: set[str]) -> bool:
        return max((content for content in known if content in pair.answer), key=len) in contents

    past = [{event["text"] for event in [*row["bill"], *row["app"]]} for row in plain]
    coming = [{event["text"] for event in row["future"]} for row in plain]
    assert got.quotes_future == sum(named(pair, coming[pair.row] - past[pair.row]) for pair in some) > 0
    assert got.not_in_history == sum(named(pair, known - past[pair.row]) for pair in some) > got.quotes_future
    others = [Pair(0, "s", "q", f"{row['bill'][0]['text']} and more") for row in plain[:1]]
    assert counts_of(rows, Written(others, []), MODALITIES, Spent()).not_in_history == 0
    both = total([got, got])
    assert (both.pairs, both.rows, both.requests["asked"]) == (120, 60, 6)

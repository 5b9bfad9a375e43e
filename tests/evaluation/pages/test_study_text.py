"""Sentences and tables of a study follow its numbers."""

import re

import pytest

from ray_ggsm.evaluation.pages.study_text import Cost, _answer, cover, findings, headline, markdown
from ray_ggsm.evaluation.study import PairSummary, StudySummary
from tests.helpers.runs_of_a_study import GROUPS, made_up_summary


@pytest.fixture(scope="module")
def summary() -> StudySummary:
    return made_up_summary()


def test_words_follow_the_numbers(summary: StudySummary) -> None:
    assert headline(summary).endswith("and is above all 3 others by more than chance.")
    good, same, matrix = findings(summary)
    assert good.startswith("good is better than plain: +")
    assert same.startswith("same cannot be told apart from plain: ")
    assert "Of all 6 pairs, 3 differ" in matrix
    level = tuple(pair.model_copy(update={"p": 1.0}) for pair in summary.pairs)
    assert headline(summary.model_copy(update={"pairs": level})).endswith(
        "but none of the others can be told apart from it."
    )
    one = tuple(pair.model_copy(update={"p": float(pair.second == "same")}) for pair in summary.pairs)
    assert headline(summary.model_copy(update={"pairs": one})).endswith("; its lead over same may be chance.")


def test_the_best_encoder_is_named_where_other_vectors_are_above_it(summary: StudySummary) -> None:
    first, *_ = findings(summary.model_copy(update={"encoders": ("plain", "same")}))
    assert first.startswith("Of the encoders alone, ")
    assert first.endswith("but none of the others can be told apart from it.")
    assert {"plain", "same"} & set(first.split())


def test_markdown(summary: StudySummary) -> None:
    costs = {"good": Cost(12_345, 12_800.0, 61.4), "plain": Cost(7, 640.0, 2.0)}
    lines = markdown("Three recipes", summary, GROUPS, costs).splitlines()
    auc = f"{summary.variants['good'].auc['mean']:.4f}"
    assert f"| good | 12,345 | 12,800 | 61 | {auc} |" in lines
    assert markdown("Three recipes", summary, GROUPS, {}).count("## Cost of training") == 0
    assert lines[:3] == ["# Three recipes", "", headline(summary)]
    assert "| | seeds | mean | between seeds | minus plain (95 %) | a | b |" in lines
    assert any(line.startswith("| good | 3 | 0.") for line in lines)
    assert sum(line.startswith("| ") for line in lines) == 1 + 4 + 1 + 2 + 1 + 2 + 1 + 6
    assert sum(line.startswith("- ") for line in lines) == len(findings(summary))
    assert "No test row." in markdown("Three recipes", summary, GROUPS, {}, ["No test row."]).splitlines()


def test_answers_say_what_their_resolution_would_take(summary: StudySummary) -> None:
    question = PairSummary(
        first="a", second="b", difference=0.001, standard_error=0.0015, low=-0.0019, high=0.0039, p=0.4,
        error_of_users=0.0009, error_of_seeds=0.0012, seeds=4,
    )  # fmt: skip

    def answer(question: PairSummary, resolution: float | None, test_rows: int | None = None) -> str:
        return _answer(question, summary.model_copy(update={"resolution": resolution, "test_rows": test_rows}))

    assert answer(question, None).endswith("p = 0.4.")
    assert answer(question, 0.003).endswith("Its interval is ±0.0029, at most ±0.003, as asked.")
    users, seeds = question.effort(0.002)
    assert users == 1
    parts = "(standard error of users 0.0009, of 4 seeds 0.0012, here)"
    assert answer(question, 0.002).endswith(f"±0.002 would take some {seeds} seeds on these test users {parts}.")
    assert re.search(r"±0.001 would take some \d+ seeds on [34]\.\d times these test users", answer(question, 0.001))
    alone = question.model_copy(update={"seeds": 1, "error_of_seeds": 0.0})
    assert answer(alone, 0.002).endswith("what ±0.002 would take is unknown with one seed.")

    half_as_many = summary.rows // 2  # the users' part is larger by the root of two on those
    there = question.model_copy(update={"error_of_users": 0.0009 * (summary.rows / half_as_many) ** 0.5})
    _, more = there.effort(0.003)
    assert more > question.effort(0.003)[1]
    expected = f"±0.003 would take some {more} seeds on the users of the {half_as_many:,} test rows {parts}."
    assert answer(question, 0.003, half_as_many).endswith(expected)


def test_intervals_without_other_seeds_say_so(summary: StudySummary) -> None:
    assert cover(summary).endswith("cover both other users and other training seeds.")
    name = summary.encoders[0]
    one = summary.variants | {name: summary.variants[name].model_copy(update={"seeds": (0,)})}
    assert "do not cover other seeds" in cover(summary.model_copy(update={"variants": one}))

"""A study's summary: the same rows for all, means over seeds, and no difference where there is none."""

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.comparison import holm
from ray_ggsm.evaluation.study import (
    Scores,
    check_labels_agree,
    findings,
    headline,
    markdown,
    pair_of,
    ranked,
    study_summary,
)

N = 400
GROUPS = {"first": ["a"], "second": ["b"]}


def scores(seed: int, strength: float) -> Scores:
    truth, own = np.random.default_rng(0), np.random.default_rng([seed, round(100 * strength)])
    labels = {name: (truth.random(N) < 0.4).astype(np.float32) for name in ("a", "b")}
    shared = {name: truth.normal(size=N) for name in labels}
    drawn = {name: shared[name] + 0.1 * own.normal(size=N) + strength * labels[name] for name in labels}
    return Scores(np.arange(N).astype(str), labels, drawn)


@pytest.fixture(scope="module")
def summary() -> dict:
    runs = {
        "good": {seed: scores(seed, 1.5) for seed in (0, 1, 2)},
        "plain": {seed: scores(seed, 0.5) for seed in (0, 1, 2)},
        "same": {seed: scores(seed + 10, 0.5) for seed in (0, 1, 2)},
        "baseline": {0: scores(0, 0.51)},
    }
    questions = [("good", "plain"), ("same", "plain")]
    return study_summary(runs, "plain", 200, "linear", questions, ["good", "plain", "same"])


def test_means_and_pairs(summary: dict) -> None:
    good = summary["variants"]["good"]
    assert good["auc"]["mean"] == pytest.approx((good["auc"]["a"] + good["auc"]["b"]) / 2)
    assert good["auc"]["mean"] == pytest.approx(np.mean(good["mean_of_each_seed"]))
    assert good["between_seeds"] == pytest.approx(np.std(good["mean_of_each_seed"], ddof=1))
    assert summary["variants"]["plain"]["minus_reference"] is None
    p = {frozenset((pair["first"], pair["second"])): pair["p"] for pair in summary["pairs"]}
    assert len(p) == 6
    assert p[frozenset(("good", "plain"))] < 0.01
    assert p[frozenset(("plain", "same"))] > 0.05


def test_questions_are_corrected_for_each_other_alone(summary: dict) -> None:
    asked = {(q["first"], q["second"]): q for q in summary["questions"]}
    assert asked.keys() == {("good", "plain"), ("same", "plain")}
    for pair, question in asked.items():
        among_all = pair_of(summary, *pair)
        assert question["difference"] == pytest.approx(among_all["difference"])
        assert question["p"] <= among_all["p"]
    both = [summary["variants"][name]["minus_reference"]["p"] for name in ("good", "same")]
    assert [q["p"] for q in asked.values()] == pytest.approx(holm(both))


def test_pairs_turn_round(summary: dict) -> None:
    one, other = pair_of(summary, "good", "same"), pair_of(summary, "same", "good")
    assert [other[key] for key in ("difference", "low", "high")] == [-one[key] for key in ("difference", "high", "low")]


def test_words_follow_the_numbers(summary: dict) -> None:
    assert ranked(summary)[0][0] == "good"
    assert headline(summary).endswith("and is above all 3 others by more than chance.")
    good, same, matrix = findings(summary)
    assert good.startswith("- good is better than plain: +")
    assert same.startswith("- same cannot be told apart from plain: ")
    assert "Of all 6 pairs, 3 differ" in matrix
    level = {**summary, "pairs": [{**pair, "p": 1.0} for pair in summary["pairs"]]}
    assert headline(level).endswith("but none of the others can be told apart from it.")


def test_the_best_encoder_is_named_where_other_vectors_are_above_it(summary: dict) -> None:
    others = {**summary, "encoders": ["plain", "same"]}
    first, *_ = findings(others)
    assert first.startswith("- Of the encoders alone, ")
    assert first.endswith("but none of the others can be told apart from it.")
    assert {"plain", "same"} & set(first.split())


def test_markdown(summary: dict) -> None:
    lines = markdown(summary, GROUPS).splitlines()
    assert "| | seeds | mean | between seeds | minus plain (95 %) | a | b |" in lines
    assert any(line.startswith("| good | 3 | 0.") for line in lines)
    assert sum(line.startswith("| ") for line in lines) == 1 + 4 + 1 + 2 + 1 + 6


def test_other_rows_are_refused() -> None:
    mine, other = scores(0, 1.0), scores(0, 1.0)
    turned = Scores(other.users[::-1], other.labels, other.scores)
    with pytest.raises(InputError, match="not all have the same test rows"):
        study_summary({"x": {0: mine}, "y": {0: turned}}, "x", 100, "linear", [], ["x", "y"])


def test_prepared_labels_are_compared_in_any_order_of_rows_and_columns() -> None:
    table = pa.table({"user_id": ["u", "v"], "as_of": [1, 1], "a": [True, None], "b": [False, True]})
    check_labels_agree([table, table.take([1, 0]).select(["b", "as_of", "user_id", "a"])])
    others = {
        "a row less": table.slice(1),
        "another user": table.set_column(0, "user_id", pa.array(["u", "w"])),
        "another label": table.set_column(2, "a", pa.array([True, False])),
        "a label less": table.drop_columns("b"),
    }
    for other in others.values():
        with pytest.raises(InputError, match="not all have the same test rows"):
            check_labels_agree([table, table, other])

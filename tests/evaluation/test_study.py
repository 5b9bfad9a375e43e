"""A study's summary: the same rows for all, means over seeds, and files that stay readable."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.comparison import holm
from ray_ggsm.evaluation.metrics import MEAN
from ray_ggsm.evaluation.study import Scores, StudySummary, check_labels_agree, study_summary
from tests.helpers.runs_of_a_study import made_up_summary, scores

COMMITTED = sorted(Path(__file__).parents[2].glob("docs/results/*/*/study.json"))


@pytest.fixture(scope="module")
def summary() -> StudySummary:
    return made_up_summary()


def test_means_and_pairs(summary: StudySummary) -> None:
    good = summary.variants["good"]
    assert good.auc[MEAN] == pytest.approx((good.auc["a"] + good.auc["b"]) / 2)
    assert good.auc[MEAN] == pytest.approx(np.mean(good.mean_of_each_seed))
    assert good.between_seeds == pytest.approx(np.std(good.mean_of_each_seed, ddof=1))
    assert summary.variants["baseline"].between_seeds is None
    assert summary.variants["plain"].minus_reference is None
    p = {frozenset((pair.first, pair.second)): pair.p for pair in summary.pairs}
    assert len(p) == 6
    assert p[frozenset(("good", "plain"))] < 0.01
    assert p[frozenset(("plain", "same"))] > 0.05
    assert summary.ranked()[0][0] == "good"


def test_questions_are_corrected_for_each_other_alone(summary: StudySummary) -> None:
    assert [(q.first, q.second) for q in summary.questions] == [("good", "plain"), ("same", "plain")]
    for question in summary.questions:
        among_all = summary.pair(question.first, question.second)
        assert question.difference == pytest.approx(among_all.difference)
        assert question.p <= among_all.p
    both = [summary.variants[name].minus_reference for name in ("good", "same")]
    assert [q.p for q in summary.questions] == pytest.approx(holm([minus.p for minus in both if minus]))


def test_pairs_turn_round(summary: StudySummary) -> None:
    one, other = summary.pair("good", "same"), summary.pair("same", "good")
    assert (other.difference, other.low, other.high) == (-one.difference, -one.high, -one.low)
    assert (other.first, other.second, other.p) == ("same", "good", one.p)
    assert other.reversed() == one


def test_a_written_summary_is_read_again(summary: StudySummary) -> None:
    assert StudySummary.model_validate_json(summary.model_dump_json()) == summary


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_committed_studies_stay_readable(file: Path) -> None:
    """Whole: what the class read is what stands in the file beside the config; fields of later are not there."""
    values = json.loads(file.read_text())
    summary = StudySummary.model_validate(values)
    values.pop("config")
    assert summary.model_dump(mode="json", exclude_unset=True) == values
    assert len(summary.pairs) == len(summary.variants) * (len(summary.variants) - 1) / 2


def test_there_are_committed_studies() -> None:
    assert COMMITTED


def test_other_rows_are_refused() -> None:
    one, other = scores(0, 1.0), scores(0, 1.0)
    turned = Scores(other.users[::-1], other.labels, other.scores)
    with pytest.raises(InputError, match="not all have the same test rows"):
        study_summary({"x": {0: one}, "y": {0: turned}}, "x", 100, "linear", [], ["x", "y"])


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

"""The numbers of the deletion test, and what table and page show."""

import numpy as np
import pytest

from ray_ggsm.explaining.explainer import ExplainedRow, Moves
from ray_ggsm.explaining.faithfulness import compared, completeness, faithfulness
from ray_ggsm.explaining.gradients import Attribution
from ray_ggsm.explaining.page import render
from ray_ggsm.explaining.results import EVENTS, ExplainReport, by_modality, events_table
from ray_ggsm.model.modality import Modality
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))


def made_up(n: int) -> ExplainedRow:
    row = user_rows(8).slice(n, 1)
    E = sum(len(row[m.name].to_pylist()[0]) for m in MODALITIES)
    effects = np.random.default_rng(n).normal(size=E)
    attribution = Attribution(effects, score=1.0 + effects.sum() + 0.01 * (n + 1), baseline_score=1.0)
    both = {"leave_one_out": effects, "integrated_gradients": effects * 2}
    return ExplainedRow(
        row, 0.5, both, attribution, Moves({"leave_one_out": 3.0 + n, "integrated_gradients": 2.0}, 1.0)
    )


def test_the_ratio_is_the_median_over_users_with_an_interval_that_covers_as_it_says() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        found = compared(3 * np.exp(draw.normal(size=80)), np.ones(80), seed=trial)
        covered += found.ratio.low <= 3 <= found.ratio.high
    assert 50 <= covered <= 60, "95 % of 60 are 57"
    one = compared(np.array([2.0, 9.0, 4.0]), np.array([1.0, 3.0, 4.0]), 0)
    assert (one.ratio.value, one.explained, one.random, one.users) == (2.0, 4.0, 3.0, 3)


def test_the_table_has_every_event_once_with_its_effects_and_texts_only_if_asked() -> None:
    rows = [made_up(n) for n in range(4)]
    table = events_table(rows, MODALITIES, "buys", texts=False)
    assert table.schema == EVENTS
    for row in rows:
        user = row.rows["user_id"][0].as_py()
        mine = [each for each in table.to_pylist() if each["user_id"] == user]
        events = [(m.name, e) for m in MODALITIES for e in row.rows[m.name].to_pylist()[0]]
        assert [(each["modality"], each["time"]) for each in mine] == [(name, e["time"]) for name, e in events]
        assert [each["event"] for each in mine] == list(range(len(events)))
        assert [each["leave_one_out"] for each in mine] == row.effects["leave_one_out"].tolist()
    told = events_table(rows, MODALITIES, "buys", texts=True)
    assert told.column_names[-1] == "text"
    assert told["text"].to_pylist()[0] == rows[0].rows["bill"].to_pylist()[0][0]["text"]
    bills = [abs(e["leave_one_out"]) for e in table.to_pylist() if e["modality"] == "bill"]
    assert by_modality(table)["leave_one_out"]["bill"] == pytest.approx(np.mean(bills))


def test_the_page_shows_what_was_found_and_no_text_that_nobody_asked_for() -> None:
    rows = [made_up(n) for n in range(4)]
    for texts in (False, True):
        events = events_table(rows, MODALITIES, "buys", texts)
        report = ExplainReport(
            label="buys", probe="linear", encoder="e", users=4, events=len(events), too_few_events=0, deleted=2,
            deletion=faithfulness(rows, 0), completeness=completeness(rows, 16), by_modality=by_modality(events),
        )  # fmt: skip
        html = render(report, events, "label: buys")
        assert ("item " in html) == texts
        assert rows[0].rows["user_id"][0].as_py() in html
        assert f"{report.deletion['leave_one_out'].ratio.value:.2f}" in html
    assert report.deletion["leave_one_out"].ratio.value == 4.5
    assert report.completeness is not None
    gaps = [0.01 * (n + 1) / abs(row.attribution.score - 1.0) for n, row in enumerate(rows)]
    assert report.completeness.median == pytest.approx(np.median(gaps))


def test_too_few_users_have_no_interval() -> None:
    assert faithfulness([made_up(0)], 0) == {}
    assert completeness([], 16) is None


def test_users_whose_score_nothing_random_moves_do_not_make_the_ratio_endless() -> None:
    """As with trees, whose scores often stay as they are."""
    got = compared(np.array([0, 0, 0.3, 0.2, 0.5, 0, 0.4]), np.array([0, 0, 0, 0, 0.1, 0, 0.1]), 0)
    assert got is not None
    assert (got.users, got.endless) == (7, 2)
    assert got.ratio.value == 1  # of 1, 1, 5, 1, 4
    assert 1 <= got.ratio.low <= got.ratio.high <= 5
    assert compared(np.array([1.0, 2.0]), np.array([0.0, 0.0]), 0) is None

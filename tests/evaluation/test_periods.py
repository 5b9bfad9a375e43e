"""Which labels have matured, by the calendar."""

import datetime as dt

import pytest

from ray_ggsm.config import NotNow
from ray_ggsm.evaluation.periods import Periods
from tests.helpers.label_tables import label_table


def periods(today: str, **changes) -> Periods:
    values = {"first": dt.date(2024, 3, 1), "days": 10, "future_days": 30, "timezone": "UTC", **changes}
    return Periods(today=dt.date.fromisoformat(today), **values)


def moments(*texts: str) -> list[dt.datetime]:
    return [dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC) for text in texts]


@pytest.mark.parametrize(
    ("today", "matured"),
    [("2024-02-01", 0), ("2024-03-30", 0), ("2024-03-31", 1), ("2024-04-09", 1), ("2024-04-10", 2), ("2024-05-01", 4)],
)
def test_the_horizon_must_have_passed(today: str, matured: int) -> None:
    """Labels of March 1 look 30 days ahead: through March 30. Those of March 11: through April 9."""
    assert periods(today).matured == matured


def test_the_first_label_is_not_there_yet() -> None:
    with pytest.raises(NotNow, match=r"labels of 2024-03-01 are known 30 days later, on 2024-03-31, but .* 2024-03-30"):
        periods("2024-03-30").check()
    periods("2024-03-31").check()


def test_events_can_end_before_today() -> None:
    assert periods("2024-04-10").until(dt.date(2024, 4, 8)).matured == 1
    assert periods("2024-04-10").until(dt.date(2024, 4, 9)).matured == 2
    assert periods("2024-04-10").until(dt.date(2030, 1, 1)).matured == 2


def test_a_period_waits_for_all_its_labels() -> None:
    times = moments("2024-02-29", "2024-03-01", "2024-03-10 23:00", "2024-03-11", "2024-03-11 00:01", "2024-03-25")
    labels = label_table([f"u{n}" for n in range(6)], times)
    kept, period_N, notes = periods("2024-04-10").of(labels)
    assert (kept["user_id"].to_pylist(), period_N.tolist()) == (["u1", "u2"], [0, 0])
    assert notes[0].startswith("1 label rows are of moments before 2024-03-01")
    assert notes[1].startswith("3 label rows were left out: their period, from 2024-03-11 on, has labels")
    kept, period_N, notes = periods("2024-04-11").of(labels)
    assert (period_N.tolist(), len(notes)) == ([0, 0, 1, 1], 2)


def test_nothing_has_matured() -> None:
    with pytest.raises(NotNow, match="no label row has matured; 2 label rows were left out"):
        periods("2024-04-01").of(label_table(["u0", "u1"], moments("2024-03-05", "2024-03-04")))


def test_days_begin_at_midnight_of_the_zone() -> None:
    """In New York, March 11 begins at 04:00 UTC: the clocks changed on March 10."""
    labels = label_table(["u0", "u1"], moments("2024-03-11 03:59", "2024-03-11 04:00"))
    _, period_N, _ = periods("2024-06-01", timezone="America/New_York").of(labels)
    assert period_N.tolist() == [0, 1]

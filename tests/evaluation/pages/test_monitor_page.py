"""The page and the sentences about a followed table, from made-up results."""

import re

import pytest

from ray_ggsm.evaluation.metrics import Estimate
from ray_ggsm.evaluation.monitor import MonitorResult, PeriodAucs, PeriodResult
from ray_ggsm.evaluation.pages.monitor_page import render
from ray_ggsm.evaluation.pages.monitor_text import encoder_notes, gauges, headline, left_out, terminal_text

NONE = PeriodAucs()


def estimates(value: float) -> dict[str, Estimate]:
    return {name: Estimate(value, value - 0.01, value + 0.01) for name in ("buys", "mean")}


def period(first: str, encoder: str | None = "enc1", aucs: PeriodAucs = NONE, **counts: int) -> PeriodResult:
    values = {"rows": 900, "users": 800, "without_vector": 0, "other_encoder": 0, **counts}
    return PeriodResult(first=first, end="2030-01-01", encoder=encoder, aucs=aucs, **values)


REFERENCE = period("2024-01-01", aucs=PeriodAucs(verdict="reference", auc={"fixed": estimates(0.8)}))
FALLEN = period(
    "2024-02-01",
    aucs=PeriodAucs(
        verdict="refit",
        auc={"fixed": estimates(0.7), "fresh": estimates(0.79)},
        change={"fixed": estimates(-0.1), "fresh": estimates(-0.01)},
    ),
    without_vector=1234,
    other_encoder=5,
)


def result(*periods: PeriodResult) -> MonitorResult:
    return MonitorResult(
        table="s3://bucket/users",
        version=3,
        as_of="2024-04-01",
        loss=0.02,
        verdict=periods[-1].aucs.verdict,
        periods=periods,
        notes=tuple(encoder_notes(periods)),
    )


def test_a_fallen_probe() -> None:
    found = result(REFERENCE, FALLEN)
    assert headline(found) == (
        "fit your models on the vectors anew: in the period from 2024-02-01 on, mean AUC against the reference: fixed "
        "probe -0.100 [-0.110, -0.090], fresh probe -0.010 [-0.020, +0.000]; the limit is -0.020"
    )
    assert {name: value for name, (_, value) in gauges(found).items()} == {
        "retraining_due": 0,
        "refitting_due": 1,
        "matured_period_timestamp_seconds": 1706745600,
        "fixed_probe_auc_change": -0.1,
        "fresh_probe_auc_change": -0.01,
    }
    assert left_out(found) == [
        "period from 2024-02-01 on: 1,234 label rows had no vector at their moment",
        "period from 2024-02-01 on: 5 label rows had a vector of another encoder",
    ]
    assert re.search(
        r"2024-02-01 +enc1 +900 +0\.700 +0\.790 +-0\.100 \[-0\.110, -0\.090\] +refit", terminal_text(found)
    )
    page = render(found, "table: s3://bucket/users")
    assert page.count("<figure") == 2
    assert "Fit your models on the vectors anew" in page
    assert "1,234" in page
    assert not re.search(r"(src|href)=", page)  # it loads nothing


@pytest.mark.parametrize(
    ("newest", "sentence"),
    [
        (period("2024-03-01", "enc2", REFERENCE.aucs), "nothing to compare yet: .* encoder enc2 has its reference"),
        (period("2024-03-01", None), r"no verdict: .* no label has a number \(no row has a vector\)"),
        (period("2024-03-01", aucs=PeriodAucs(too_few=("label 'a': 3 users",))), r"no label has a number \(label 'a'"),
    ],
)
def test_nothing_to_compare(newest: PeriodResult, sentence: str) -> None:
    found = result(REFERENCE, FALLEN, newest)
    assert re.match(rf".*{sentence}", headline(found))
    assert set(gauges(found)) == {"retraining_due", "refitting_due", "matured_period_timestamp_seconds"}
    page = render(found, "")
    assert page.count("<figure") == 1  # of the encoder before
    assert render(result(newest), "").count("<figure") == 0


def test_each_encoder_that_took_over_has_a_note() -> None:
    periods = [period("2024-01-01", None), REFERENCE, period("2024-02-01", "enc2"), period("2024-03-01", "enc2")]
    (note,) = encoder_notes(periods)
    assert note.startswith("encoder enc2 is in use from the period of 2024-02-01 on")

"""The page of a monitored table: is something due, what both probes reached in each period, and what was left out."""

from ray_ggsm import storage
from ray_ggsm.evaluation.metrics import MEAN
from ray_ggsm.evaluation.monitor import ADVICE, FIXED, FRESH, MonitorResult, PeriodResult
from ray_ggsm.evaluation.pages import charts, interval_charts
from ray_ggsm.evaluation.pages.charts import Points
from ray_ggsm.evaluation.pages.monitor_text import headline, left_out
from ray_ggsm.evaluation.pages.page import page

NAMES = {FIXED: "probe of the reference", FRESH: "probe fitted anew"}
"""Probe -> its name for people."""
LIMIT = "limit"


def write_monitor(result: MonitorResult, config: str, location: str) -> None:
    """Render the page and write it to a local or s3:// location; `config` is the resolved configuration."""
    storage.write_text(location, render(result, config))


def render(result: MonitorResult, config: str) -> str:
    """The page as HTML."""
    newest = result.periods[-1].aucs
    labels = {"labels": [label for label in newest.change.get(FIXED, {}) if label != MEAN]}
    series = {NAMES[probe]: change for probe, change in newest.change.items()}
    forest = ""
    if series:
        span = interval_charts.span(series.values())
        forest = interval_charts.forest(series, labels, "Change of AUC by label in the newest period", span)
    return page(
        "monitor.html.j2",
        page="monitor",
        report={"title": result.table},
        result=result,
        headline=headline(result),
        advice=ADVICE,
        pictures=_pictures(result),
        names=[*NAMES.values(), LIMIT],
        forest=forest,
        forest_names=list(NAMES.values()),
        probes=NAMES,
        mean=MEAN,
        left_out=left_out(result),
        config=config,
    )


def _pictures(result: MonitorResult) -> dict[str, str]:
    """Encoder -> changes of the mean AUC over its periods; encoders without a comparison have none."""
    encoders = dict.fromkeys(period.encoder for period in result.periods if period.aucs.change)
    return {str(encoder): _picture(result, str(encoder)) for encoder in encoders}


def _picture(result: MonitorResult, encoder: str) -> str:
    numbered = [(float(n), p) for n, p in enumerate(result.periods, 1) if p.encoder == encoder and p.aucs.auc]
    series: dict[str, Points] = {
        NAMES[probe]: [(n, _change(period, probe)[1]) for n, period in numbered] for probe in NAMES
    }
    ends = numbered[0][0], numbered[-1][0]
    series[LIMIT] = [(n, -result.loss) for n in ends]
    low, high = ([(n, _change(period, FIXED)[end]) for n, period in numbered] for end in (0, 2))
    return charts.lines(
        series, f"Change of the mean AUC against the reference, encoder {encoder}", (low, high), axis_name="period"
    )


def _change(period: PeriodResult, probe: str) -> tuple[float, float, float]:
    """Lower end, value and upper end; the reference has changed by nothing."""
    if not period.aucs.change:
        return 0.0, 0.0, 0.0
    mean = period.aucs.change[probe][MEAN]
    return mean.low, mean.value, mean.high

"""The page of a study: what to ship, the table, who differs from whom, and how the recipes trained.

Shapes: S steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ray_ggsm.evaluation.measures import MEASURES
from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.pages import charts, mask_figures
from ray_ggsm.evaluation.pages.charts import Points
from ray_ggsm.evaluation.pages.mask_figures import Figure, MaskHistory
from ray_ggsm.evaluation.pages.page import page
from ray_ggsm.evaluation.study import LEVEL, findings, headline, pair_of, ranked


@dataclass(frozen=True)
class StudyReport:
    """Everything the page shows."""

    title: str
    """Heading."""
    summary: Mapping[str, Any]
    """`study_summary`."""
    groups: Mapping[str, Sequence[str]]
    """Label group -> labels, in display order."""
    command: str
    """The shell command that reproduces this page."""
    config: str
    """The study's config as YAML."""
    loss: Mapping[str, Sequence[Points]] = field(default_factory=dict)
    """Trained variant -> one curve (step, loss) per seed; they begin with the same steps."""
    masks: Mapping[str, MaskHistory] = field(default_factory=dict)
    """Trained variant -> how its mask opened with the first seed."""
    attention: Mapping[str, Figure] = field(default_factory=dict)
    """Trained variant -> where its heads look, with the first seed."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """"variant, seed" -> digest of its vectors."""
    notes: tuple[str, ...] = ()
    """Sentences the reader should know."""


def render(report: StudyReport) -> str:
    """The page as HTML."""
    summary = report.summary
    order = ranked(summary)
    labels = [label for names in report.groups.values() for label in names]
    moving = {name: mask for name, mask in report.masks.items() if _moves(mask)}
    return page(
        "study.html.j2",
        page="study",
        report=report,
        headline=headline(summary),
        findings=[line.removeprefix("- ") for line in findings(summary)],
        order=order,
        columns=[MEAN, *labels],
        best={label: max(order, key=lambda item: item[1]["auc"][label])[0] for label in [MEAN, *labels]},
        measures=list(MEASURES),
        half=typical_half_width(summary),
        forest=_forest(summary),
        dots=_dots(report),
        matrix=_matrix(summary),
        losses=_losses(report),
        weights=_weights(moving),
        slots={name: figure for name, mask in moving.items() if (figure := mask_figures.over_slots(mask))},
        flat={n: f for n, o in moving.items() if (f := mask_figures.over_gradients(o.slots))},
        mean=MEAN,
        level=LEVEL,
    )


def typical_half_width(summary: Mapping[str, Any]) -> float:
    """Median over all pairs of trained variants of half a 95 % interval: smaller differences are hard to see here."""
    several = {name for name, values in summary["variants"].items() if len(values["seeds"]) > 1}
    pairs = [p for p in summary["pairs"] if {p["first"], p["second"]} <= several] or summary["pairs"]
    return float(np.median([(pair["high"] - pair["low"]) / 2 for pair in pairs]))


def smoothed(curves: Sequence[Points]) -> Points:
    """The mean over curves as far as all of them go, averaged over windows of a twentieth of the run."""
    together = list(zip(*curves, strict=False))  # a run that stops early is shorter
    step_S = [points[0][0] for points in together]
    value_S = np.mean([[value for _, value in points] for points in together], axis=1)
    width = max(1, len(step_S) // 20)
    kernel = np.ones(width) / width
    return list(zip(step_S[width - 1 :], np.convolve(value_S, kernel, mode="valid").tolist(), strict=True))


def _forest(summary: Mapping[str, Any]) -> str:
    variants = summary["variants"]
    reference = variants[summary["reference"]]["auc"][MEAN]
    rows, points = {}, {}
    for name, values in ranked(summary):
        if other := values["minus_reference"]:
            rows[name] = Estimate(other["difference"], other["low"], other["high"])
            points[name] = [mean - reference for mean in values["mean_of_each_seed"]]
    return charts.ranking(rows, points, f"Mean AUC minus that of {summary['reference']}") if rows else ""


def _dots(report: StudyReport) -> tuple[str, list[str]]:
    """By label: the reference and what was asked about, at most as many as can be told apart; and their names."""
    asked = [name for question in report.summary["questions"] for name in (question["first"], question["second"])]
    names = list(dict.fromkeys([report.summary["reference"], *asked]))[: charts.KINDS // 2]
    variants = report.summary["variants"]
    series = {
        name: {
            label: Estimate(value, *variants[name]["interval"][label]) for label, value in variants[name]["auc"].items()
        }
        for name in names
    }
    return charts.dots(series, report.groups, "AUC by label", charts.span(series.values())), names


def _matrix(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Row name -> (class, text, tooltip) per column: row minus column."""
    names = [name for name, _ in ranked(summary)]
    rows = []
    for first in names:
        cells = []
        for second in names:
            if first == second:
                cells.append(("self", "", ""))
                continue
            pair = pair_of(summary, first, second)
            style = ("up" if pair["difference"] > 0 else "down") if pair["p"] < LEVEL else "even"
            told = f"{first} minus {second}: [{pair['low']:+.4f}, {pair['high']:+.4f}], p = {pair['p']:.2g}"
            cells.append((style, f"{1000 * pair['difference']:+.0f}", told))
        rows.append((first, cells))
    return rows


def _losses(report: StudyReport) -> dict[str, str]:
    """Panel -> picture: what was asked about, and the others."""
    asked = {name for question in report.summary["questions"] for name in (question["first"], question["second"])}
    curves = {name: smoothed(each) for name, each in report.loss.items()}
    panels = {
        "in question": {name: points for name, points in curves.items() if name in asked},
        "the others": {name: points for name, points in curves.items() if name not in asked},
    }
    return {
        panel: charts.lines(series, f"Training loss, {panel}", names=True, size=(540, 300))
        for panel, series in panels.items()
        if series
    }


def _weights(moving: Mapping[str, MaskHistory]) -> str:
    series = {name: mask.weight["mean"] for name, mask in moving.items()}
    if not series:
        return ""
    return charts.lines(series, "Mean weight of future keys over steps", span=(0, 1), names=True, size=(540, 300))


def _moves(history: MaskHistory) -> bool:
    values = [value for _, value in history.weight.get("mean", ())]
    return bool(values) and max(values) - min(values) > 1e-6

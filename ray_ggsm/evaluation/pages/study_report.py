"""The page of a study: what to ship, the table of AUCs, which variants differ, and how the recipes trained.

Shapes: S steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ray_ggsm import storage
from ray_ggsm.config import Config, to_yaml
from ray_ggsm.evaluation.measures import MEASURES
from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.pages import charts, interval_charts, mask_figures
from ray_ggsm.evaluation.pages.charts import Points
from ray_ggsm.evaluation.pages.figure import Figure
from ray_ggsm.evaluation.pages.mask_figures import MaskHistory
from ray_ggsm.evaluation.pages.page import page
from ray_ggsm.evaluation.pages.study_text import Cost, cover, findings, headline, markdown
from ray_ggsm.evaluation.pages.svg import STYLES
from ray_ggsm.evaluation.study import LEVEL, StudySummary


@dataclass(frozen=True)
class StudyReport:
    """Everything that the page shows."""

    title: str
    """Heading."""
    summary: StudySummary
    groups: Mapping[str, Sequence[str]]
    """Label group -> labels, in display order."""
    command: str
    """Shell command that reproduces this page."""
    config: Config
    """The study's config."""
    loss: Mapping[str, Sequence[Points]] = field(default_factory=dict)
    """Trained variant -> one curve (step, loss) per seed; all curves begin with the same steps."""
    masks: Mapping[str, MaskHistory] = field(default_factory=dict)
    """Trained variant -> how its mask opened with the first seed."""
    attention: Mapping[str, Figure] = field(default_factory=dict)
    """Trained variant -> where its heads look with the first seed."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """"variant, seed" -> digest of its vectors."""
    notes: tuple[str, ...] = ()
    """Sentences about the data, for example that they are simulated."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """Variant -> what its training took."""


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix of all pairs: row minus column."""

    style: str
    """CSS class: up, down, even, or self on the diagonal."""
    text: str = ""
    tooltip: str = ""


def write_study(report: StudyReport, place: str) -> None:
    """Write study.json, study.md, config.yaml and study.html to a directory, local or s3://."""
    values = {"config": report.config.model_dump(mode="json"), **report.summary.model_dump(mode="json")}
    storage.write_json(storage.join(place, "study.json"), values)
    storage.write_text(
        storage.join(place, "study.md"),
        markdown(report.title, report.summary, report.groups, report.costs, report.notes),
    )
    storage.write_text(storage.join(place, "config.yaml"), to_yaml(report.config))
    storage.write_text(storage.join(place, "study.html"), render(report))


def render(report: StudyReport) -> str:
    """The page as HTML."""
    summary = report.summary
    order = summary.ranked()
    labels = [MEAN, *(label for names in report.groups.values() for label in names)]
    moving = {name: mask for name, mask in report.masks.items() if _moves(mask)}
    return page(
        "study.html.j2",
        page="study",
        report=report,
        config=to_yaml(report.config),
        headline=headline(summary),
        findings=findings(summary),
        cover=cover(summary),
        order=order,
        labels=labels[1:],
        best={label: max(order, key=lambda item: item[1].auc[label])[0] for label in labels},
        measures=list(MEASURES),
        half=typical_half_width(summary),
        forest=_forest(summary),
        dots=_dots(report),
        matrix=_matrix(summary),
        losses=_losses(report),
        weights=_weights(moving),
        slots={n: figure for n, m in moving.items() if _differ(m) and (figure := mask_figures.over_slots(m))},
        flat={n: figure for n, mask in moving.items() if (figure := mask_figures.over_gradients(mask.slots))},
        mean=MEAN,
        level=LEVEL,
    )


def typical_half_width(summary: StudySummary) -> float:
    """Median half width of the 95 % intervals of pairs of trained variants: smaller differences are hard to see."""
    trained = {name for name, variant in summary.variants.items() if len(variant.seeds) > 1}
    pairs = [pair for pair in summary.pairs if {pair.first, pair.second} <= trained] or summary.pairs
    return float(np.median([(pair.high - pair.low) / 2 for pair in pairs]))


def smoothed(curves: Sequence[Points]) -> Points:
    """The mean over curves, as far as all of them go, averaged over windows of a twentieth of the run."""
    together = list(zip(*curves, strict=False))  # a run that stops early is shorter
    step_S = [points[0][0] for points in together]
    value_S = np.mean([[value for _, value in points] for points in together], axis=1)
    width = max(1, len(step_S) // 20)
    kernel = np.ones(width) / width
    return list(zip(step_S[width - 1 :], np.convolve(value_S, kernel, mode="valid").tolist(), strict=True))


def _forest(summary: StudySummary) -> str:
    """Differences from the reference, with the single seeds; empty if there is no other variant."""
    reference = summary.variants[summary.reference]
    rows, points = {}, {}
    for name, variant in summary.ranked():
        if minus := variant.minus_reference:
            rows[name] = Estimate(minus.difference, minus.low, minus.high)
            paired = variant.seeds == reference.seeds
            other = reference.mean_of_each_seed if paired else [reference.auc[MEAN]] * len(variant.seeds)
            points[name] = [a - b for a, b in zip(variant.mean_of_each_seed, other, strict=True)]
    title = f"Mean AUC minus that of {summary.reference}"
    return interval_charts.ranking(rows, points, title) if rows else ""


def _dots(report: StudyReport) -> tuple[str, list[str]]:
    """AUCs by label of the reference and the first variants in question, and the names of these."""
    summary = report.summary
    names = [summary.reference, *_in_question(summary)]
    names = list(dict.fromkeys(names))[: STYLES // 2]
    series = {
        name: {
            label: Estimate(auc, *summary.variants[name].interval[label])
            for label, auc in summary.variants[name].auc.items()
        }
        for name in names
    }
    span = interval_charts.span(series.values())
    return interval_charts.dots(series, report.groups, "AUC by label", span), names


def _in_question(summary: StudySummary) -> list[str]:
    """The variants that the questions are about."""
    return [name for question in summary.questions for name in (question.first, question.second)]


def _matrix(summary: StudySummary) -> dict[str, list[Cell]]:
    """Row name -> its cells."""
    names = [name for name, _ in summary.ranked()]
    return {first: [_cell(summary, first, second) for second in names] for first in names}


def _cell(summary: StudySummary, first: str, second: str) -> Cell:
    if first == second:
        return Cell("self")
    pair = summary.pair(first, second)
    style = "even" if pair.may_be_chance else "up" if pair.difference > 0 else "down"
    tooltip = f"{first} minus {second}: [{pair.low:+.4f}, {pair.high:+.4f}], p = {pair.p:.2g}"
    return Cell(style, f"{1000 * pair.difference:+.0f}", tooltip)


def _losses(report: StudyReport) -> dict[str, str]:
    """Heading -> picture of the variants in question, and of the others."""
    in_question = set(_in_question(report.summary))
    curves = {name: smoothed(each) for name, each in report.loss.items()}
    panels = {
        "in question": {name: points for name, points in curves.items() if name in in_question},
        "the others": {name: points for name, points in curves.items() if name not in in_question},
    }
    return {
        panel: charts.lines(series, f"Training loss, {panel}", names=True, size=(540, 300))
        for panel, series in panels.items()
        if series
    }


def _weights(moving: Mapping[str, MaskHistory]) -> str:
    """Mean weight of every mask that moves; empty if none does."""
    series = {name: mask.weight["mean"] for name, mask in moving.items()}
    if not series:
        return ""
    return charts.lines(series, "Mean weight of future keys over steps", span=(0, 1), names=True, size=(540, 300))


def _differ(mask: MaskHistory) -> bool:
    """Whether slots have weights of their own."""
    recorded = mask.slots.weight.values() if mask.slots else ()
    return any(max(weights) - min(weights) > 1e-6 for weights in recorded)


def _moves(mask: MaskHistory) -> bool:
    values = [value for _, value in mask.weight.get("mean", ())]
    return bool(values) and max(values) - min(values) > 1e-6

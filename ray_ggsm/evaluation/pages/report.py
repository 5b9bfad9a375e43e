"""The HTML page of an evaluation: which vectors are better, by how much, and why to believe it.

The page holds everything that it shows (styles, charts), loads nothing, and follows the reader's light or dark setting.
`Report` is plain data; an empty part leaves no section behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ray_ggsm import storage
from ray_ggsm.evaluation.dimensions import Stored
from ray_ggsm.evaluation.few_labels import FewLabels
from ray_ggsm.evaluation.measures import MEASURES
from ray_ggsm.evaluation.metrics import MEAN, ByLabel, Estimate
from ray_ggsm.evaluation.pages import charts, interval_charts, mask_figures
from ray_ggsm.evaluation.pages.charts import Points
from ray_ggsm.evaluation.pages.figure import Figure
from ray_ggsm.evaluation.pages.mask_figures import MaskHistory
from ray_ggsm.evaluation.pages.page import page, sentence
from ray_ggsm.evaluation.pages.user_map import UserMap
from ray_ggsm.evaluation.privacy import Privacy
from ray_ggsm.evaluation.summary import title_of

_PERFECT = "perfect calibration"
_NOUNS = {
    "untrained": "untrained encoder",
    "handcrafted": "hand-crafted features",
    "joined": "encoder joined with the hand-crafted features",
}
"""Name of vectors -> how a sentence calls them; others are called by their name."""


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. Vectors and probes have the names of summary.json."""

    title: str
    """Heading, for example "Journey, GG-SM"."""
    auc: ByLabel[Estimate]
    """AUCs by label, and under "mean". The first vectors are those on trial."""
    differences: ByLabel[Estimate]
    """AUCs of the first vectors minus those of each of the others, paired on the same rows."""
    groups: Mapping[str, tuple[str, ...]]
    """Label group -> labels, in display order; together all labels."""
    rows: Mapping[str, int]
    """Split -> number of rows."""
    label_rates: Mapping[str, Mapping[str, float | None]]
    """Split -> label -> share of positives."""
    scored: str
    """Split of the test rows."""
    command: str
    """Shell command that reproduces this page."""
    delong: ByLabel[float] = field(default_factory=dict)
    """P value of each of these differences, after Holm's correction over the labels; there is none for "mean"."""
    measures: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Name of vectors -> probe -> measure -> mean over the labels."""
    calibration: Mapping[str, Mapping[str, Points]] = field(default_factory=dict)
    """Probe -> name of vectors -> (predicted, observed) share of positives."""
    few_labels: FewLabels | None = None
    """Linear probes on few labelled rows; None if they were not asked for."""
    stored: tuple[Stored, ...] = ()
    """What fewer dimensions and bytes cost; empty if it was not asked for."""
    privacy: Privacy | None = None
    """Whether the first vectors tell who was trained on; None if it was not asked for."""
    user_map: UserMap | None = None
    """The first vectors of the test rows on a plane."""
    training: Mapping[str, Mapping[str, Points]] = field(default_factory=dict)
    """Panel ("loss", "in-batch accuracy") -> series ("training", "held-out") -> (step, finite value)."""
    mask: MaskHistory = field(default_factory=MaskHistory)
    """How the mask opened."""
    attention: Figure | None = None
    """Where each head looks; None if it was not measured."""
    health: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Name of vectors -> `vector_health`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage -> wall time in seconds."""
    config: str = ""
    """The resolved configuration as YAML."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What the page was made from (config, rows, encoder, table) -> digest or location."""
    notes: tuple[str, ...] = ()
    """Sentences about the data, for example that they are simulated."""


@dataclass(frozen=True)
class _Pictures:
    """Pictures of the sections, by their captions."""

    auc: Mapping[str, str]
    differences: Mapping[str, str]
    calibration: Mapping[str, str]
    few_labels: str | None
    stored: str | None
    user_map: Mapping[str, str]
    training: Mapping[str, str]


def write_report(report: Report, location: str) -> None:
    """Render the page and write it to a local or s3:// location."""
    storage.write_text(location, render(report))


def render(report: Report) -> str:
    """The page as HTML."""
    kinds = list(next(iter(report.auc.values())))
    return page(
        "report.html.j2",
        page="evaluation",
        report=report,
        kinds=kinds,
        headline=headline(report),
        verdicts=[verdict(report, kind) for kind in kinds],
        best=_best(report, kinds),
        pictures=_pictures(report, kinds),
        mask_over_steps=mask_figures.over_steps(report.mask),
        mask_over_gradients=mask_figures.over_gradients(report.mask.slots),
        mask_over_slots=mask_figures.over_slots(report.mask),
        names=[title_of(name) for name in report.auc],
        difference_names=[f"minus {_noun(other)}" for other in report.differences],
        calibration_names=[*map(title_of, report.auc), _PERFECT],
        measures=list(MEASURES),
        mean=MEAN,
    )


def headline(report: Report) -> str:
    """The answer in one sentence, from the mean AUC of the first probe."""
    first, kind = next(iter(report.auc)), next(iter(next(iter(report.auc.values()))))
    if not report.differences:
        return f"The {title_of(first)} reaches a mean AUC of {report.auc[first][kind][MEAN].value:.3f}."
    standings: dict[str, list[str]] = {}
    for other, values in report.differences.items():
        standings.setdefault(_standing(values[kind][MEAN]), []).append(f"the {_noun(other)}")
    found = [f"{standing} {_listed(nouns)}" for standing, nouns in standings.items()]
    return f"The {title_of(first)} {', and '.join(found)}."


def verdict(report: Report, kind: str) -> str:
    """One probe's mean AUC and its differences in words, with intervals."""
    mean = report.auc[next(iter(report.auc))][kind][MEAN]
    text = f"{title_of(kind)}: mean AUC {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
    for other, values in report.differences.items():
        gap = values[kind][MEAN]
        text += f"; {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] against the {_noun(other)}"
        text += ", which may be chance" if gap.low <= 0 <= gap.high else ""
    return sentence(text).replace("-0.", "−0.") + "."


def _listed(nouns: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(nouns[:-1]), nouns[-1]]))


def _noun(name: str) -> str:
    return _NOUNS.get(name, name)


def _standing(gap: Estimate) -> str:
    if gap.low > 0:
        return "beats"
    return "falls short of" if gap.high < 0 else "cannot be told apart from"


def _best(report: Report, kinds: list[str]) -> dict[tuple[str, str], str]:
    """(probe, label) -> name of the vectors with the highest AUC."""
    labels = next(iter(report.auc.values()))[kinds[0]]
    return {
        (kind, label): max(report.auc, key=lambda name: report.auc[name][kind][label].value)
        for kind in kinds
        for label in labels
    }


def _pictures(report: Report, kinds: list[str]) -> _Pictures:
    differences = report.differences
    return _Pictures(
        auc=_by_probe(interval_charts.dots, report.auc, kinds, report.groups, title_of),
        differences=_by_probe(interval_charts.forest, differences, kinds, report.groups, _noun) if differences else {},
        calibration={kind: _calibration(kind, curves) for kind, curves in report.calibration.items()},
        few_labels=_few_labels(report.few_labels) if report.few_labels else None,
        stored=_stored(report.stored) if report.stored else None,
        user_map=_clouds(report.user_map) if report.user_map else {},
        training={
            panel: charts.lines(series, f"{panel} over training steps") for panel, series in report.training.items()
        },
    )


def _few_labels(few: FewLabels) -> str:
    """Mean AUC over the number of labelled rows."""
    series = {
        title_of(name): [(float(rows), few.mean(name, place)) for place, rows in enumerate(few.rows)]
        for name in few.auc
    }
    return charts.lines(series, "Mean AUC over the number of labelled rows", axis_name="labelled rows")


def _stored(forms: Sequence[Stored]) -> str:
    """Mean AUC over the bytes of a vector, a line per precision."""
    series: dict[str, list[tuple[float, float]]] = {}
    for form in sorted(forms, key=lambda form: form.bytes):
        series.setdefault(form.precision, []).append((form.bytes, form.auc.value))
    return charts.lines(series, "Mean AUC over the bytes of a vector", names=True, axis_name="bytes of a vector")


def _clouds(users: UserMap) -> dict[str, str]:
    """Label -> map of users."""
    return {
        label: charts.cloud(users.points.tolist(), (values_N == 1).tolist(), f"Users by {label}")
        for label, values_N in users.labels.items()
    }


def _by_probe(
    chart: Callable[..., str],
    values: ByLabel[Estimate],
    kinds: list[str],
    groups: Mapping[str, tuple[str, ...]],
    name_of: Callable[[str], str],
) -> dict[str, str]:
    """Probe -> chart of all vectors, with one axis for all probes."""
    span = interval_charts.span(by_kind[kind] for by_kind in values.values() for kind in kinds)
    return {
        kind: chart({name_of(name): by_kind[kind] for name, by_kind in values.items()}, groups, title_of(kind), span)
        for kind in kinds
    }


def _calibration(kind: str, curves: Mapping[str, Points]) -> str:
    """Observed over predicted rates, with the diagonal."""
    series = {title_of(name): points for name, points in curves.items()} | {_PERFECT: [(0.0, 0.0), (1.0, 1.0)]}
    return charts.lines(series, f"Observed over predicted rates, {title_of(kind)}", span=(0, 1), axis_name="predicted")

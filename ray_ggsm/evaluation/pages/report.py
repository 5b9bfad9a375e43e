"""One HTML page that says which encoder is better, by how much, and why to believe it.

The page holds everything it shows (styles, charts), loads nothing, and follows the reader's light or dark setting.
`Report` is plain data; parts that are empty leave no section behind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ray_ggsm import storage
from ray_ggsm.evaluation.measures import MEASURES
from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.pages import charts, mask_figures
from ray_ggsm.evaluation.pages.charts import Points
from ray_ggsm.evaluation.pages.mask_figures import Figure, MaskHistory
from ray_ggsm.evaluation.pages.page import page, sentence, title_of
from ray_ggsm.evaluation.pages.user_map import UserMap

_PERFECT = "probabilities that come true"

Estimates = Mapping[str, Estimate]
"""Label, and "mean" -> AUC or difference with its interval."""


@dataclass(frozen=True)
class Report:
    """Everything the page shows. Encoders and probes are named by the keys of summary.json."""

    title: str
    """Heading, for example "Journey, GG-SM"."""
    auc: Mapping[str, Mapping[str, Estimates]]
    """encoder -> probe -> estimates. The first encoder is the one on trial."""
    differences: Mapping[str, Mapping[str, Estimates]]
    """other encoder -> probe -> (first encoder minus other), paired on the same rows."""
    groups: Mapping[str, tuple[str, ...]]
    """Label group -> labels, in display order; together all labels."""
    rows: Mapping[str, int]
    """split -> rows."""
    label_rates: Mapping[str, Mapping[str, float | None]]
    """split -> label -> share of positives."""
    scored: str
    """The split that the AUCs are about."""
    command: str
    """The shell command that reproduces this page."""
    delong: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """other encoder -> probe -> label -> p of the difference, after Holm's correction over the labels."""
    measures: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """encoder -> probe -> measure -> mean over the labels."""
    calibration: Mapping[str, Mapping[str, Points]] = field(default_factory=dict)
    """probe -> encoder -> (predicted, observed) share of positives."""
    user_map: UserMap | None = None
    """The first encoder's test vectors on a plane."""
    training: Mapping[str, Mapping[str, Points]] = field(default_factory=dict)
    """Panel ("loss", "in-batch accuracy") -> series ("training", "held-out") -> (step, finite value)."""
    mask: MaskHistory = field(default_factory=MaskHistory)
    """MaskHistory of the mask."""
    attention: Figure | None = None
    """Where each head looks; None: nobody has measured it."""
    health: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """encoder -> `vector_health`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """stage -> wall time in seconds."""
    config: str = ""
    """The resolved configuration as YAML."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """What the page was made from (config, rows, encoder, table) -> digest or location."""
    notes: tuple[str, ...] = ()
    """Sentences the reader should know, for example that the data are simulated."""


def write_report(report: Report, location: str) -> None:
    """Render and write the page to a local or s3:// location."""
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
        encoder_names=[title_of(encoder) for encoder in report.auc],
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
    standings = [f"{_standing(values[kind][MEAN])} the {_noun(other)}" for other, values in report.differences.items()]
    return f"The {title_of(first)} {' and '.join(standings)}."


def verdict(report: Report, kind: str) -> str:
    """One probe's mean AUC and its differences in words, with intervals."""
    mean = report.auc[next(iter(report.auc))][kind][MEAN]
    text = f"{title_of(kind)}: mean AUC {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
    for other, values in report.differences.items():
        gap = values[kind][MEAN]
        text += f"; {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] against the {_noun(other)}"
        text += ", which may be chance" if gap.low <= 0 <= gap.high else ""
    return sentence(text).replace("-0.", "−0.") + "."


def _noun(encoder: str) -> str:
    nouns = {
        "untrained": "untrained encoder",
        "handcrafted": "hand-crafted features",
        "joined": "encoder joined with the hand-crafted features",
    }
    return nouns.get(encoder, encoder)


def _standing(gap: Estimate) -> str:
    if gap.low > 0:
        return "beats"
    return "falls short of" if gap.high < 0 else "cannot be told apart from"


def _best(report: Report, kinds: list[str]) -> dict[tuple[str, str], str]:
    """(probe, label) -> the encoder with the highest AUC."""
    labels = next(iter(report.auc.values()))[kinds[0]]
    return {
        (kind, label): max(report.auc, key=lambda encoder: report.auc[encoder][kind][label].value)
        for kind in kinds
        for label in labels
    }


def _pictures(report: Report, kinds: list[str]) -> dict[str, dict[str, str]]:
    """Section -> caption -> SVG."""
    pictures: dict[str, dict[str, str]] = {
        name: {} for name in ("auc", "differences", "calibration", "map", "training")
    }
    pictures["auc"] = _per_kind(charts.dots, report.auc, kinds, report.groups, title_of)
    if report.differences:
        pictures["differences"] = _per_kind(charts.forest, report.differences, kinds, report.groups, _noun)
    for kind, curves in report.calibration.items():
        named = {title_of(encoder): points for encoder, points in curves.items()} | {_PERFECT: [(0.0, 0.0), (1.0, 1.0)]}
        title = f"Observed over predicted rates, {title_of(kind)}"
        pictures["calibration"][kind] = charts.lines(named, title, span=(0, 1), axis_name="predicted")
    if users := report.user_map:
        for label, values_N in users.labels.items():
            pictures["map"][label] = charts.cloud(users.points.tolist(), (values_N == 1).tolist(), f"Users by {label}")
    for panel, series in report.training.items():
        pictures["training"][panel] = charts.lines(series, f"{panel} over training steps")
    return pictures


def _per_kind(
    chart: Callable[..., str],
    results: Mapping[str, Mapping[str, Estimates]],
    kinds: list[str],
    groups: Mapping[str, tuple[str, ...]],
    name_of: Callable[[str], str],
) -> dict[str, str]:
    """Probe -> chart of all encoders, with one axis for all probes."""
    span = charts.span(values[kind] for values in results.values() for kind in kinds)
    return {
        kind: chart({name_of(key): values[kind] for key, values in results.items()}, groups, title_of(kind), span)
        for kind in kinds
    }

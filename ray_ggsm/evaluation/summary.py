"""The short result of an evaluation: the content of summary.json, and the same as text for the terminal."""

from collections.abc import Mapping

from ray_ggsm.config import Record
from ray_ggsm.evaluation.metrics import MEAN, ByLabel

TITLES = {
    "encoder": "encoder",
    "untrained": "untrained",
    "handcrafted": "hand-crafted",
    "joined": "both",
    "linear": "linear probe",
    "lightgbm": "LightGBM probe",
    "mlp": "MLP probe",
}
"""Name of vectors, or kind of probe -> title for people; other names are their own titles."""


class Summary(Record):
    """The content of `summary.json`."""

    rows: dict[str, int]
    """Split -> number of rows."""
    label_rates: dict[str, dict[str, float | None]]
    """Split -> label -> share of positives among the rows where it is defined; None if it is defined nowhere."""
    auc: dict[str, dict[str, dict[str, float]]]
    """Name of vectors -> probe -> label, and "mean" over the labels -> AUC on the test rows."""
    seconds: dict[str, float]
    """Stage -> wall time, seconds."""
    table: str
    """Location of the embedding table."""
    report: str
    """Location of the HTML report."""
    scored: str
    """Split of the test rows."""

    @classmethod
    def of(
        cls,
        *,
        rows: Mapping[str, int],
        label_rates: Mapping[str, Mapping[str, float | None]],
        auc: ByLabel[float],
        seconds: Mapping[str, float],
        table: str,
        report: str,
        scored: str,
    ) -> "Summary":
        """The summary with the means over labels filled in; arguments as the fields."""
        return cls(
            rows=dict(rows),
            label_rates={split: dict(rates) for split, rates in label_rates.items()},
            auc={
                name: {kind: {**values, MEAN: sum(values.values()) / len(values)} for kind, values in kinds.items()}
                for name, kinds in auc.items()
            },
            seconds={stage: round(value, 1) for stage, value in seconds.items()},
            table=table,
            report=report,
            scored=scored,
        )


def title_of(name: str) -> str:
    """The title of vectors or of a probe for people."""
    return TITLES.get(name, name)


def terminal_summary(summary: Summary) -> str:
    """The summary as lines of plain text, at most 100 columns wide for two probes and three kinds of vectors."""
    counts = ", ".join(f"{number:,} {split}" for split, number in summary.rows.items())
    times = "  ".join(f"{stage} {value:.0f} s" for stage, value in summary.seconds.items())
    lines = [
        f"AUC on {summary.rows.get(summary.scored, 0):,} test rows ({counts} rows)",
        "",
        *_auc_table(summary.auc),
        "",
        f"time    {times}  (total {sum(summary.seconds.values()):.0f} s)",
        f"table   {summary.table}",
        f"report  {summary.report}",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _auc_table(aucs: ByLabel[float]) -> list[str]:
    """One line per label, the mean first; vectors side by side below each probe."""
    names, kinds = list(aucs), list(next(iter(aucs.values())))
    labels = [label for label in aucs[names[0]][kinds[0]] if label != MEAN]
    titles = {label: label for label in labels} | {MEAN: "mean AUC"}
    left = max(map(len, titles.values()))
    widths = {name: max(len(title_of(name)), 6) for name in names}
    span = sum(widths.values()) + 2 * (len(names) - 1)

    def line(start: str, cells: list[str]) -> str:
        return "    ".join([start.ljust(left), *cells])

    head = [
        line("", [title_of(kind).center(span) for kind in kinds]),
        line("", ["  ".join(title_of(name).rjust(widths[name]) for name in names) for _ in kinds]),
    ]
    return head + [
        line(
            titles[label],
            ["  ".join(f"{aucs[name][kind][label]:.3f}".rjust(widths[name]) for name in names) for kind in kinds],
        )
        for label in [MEAN, *labels]
    ]

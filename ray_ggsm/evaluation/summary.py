"""The short result of an evaluation: what stands in summary.json, and the same as text for the terminal.

The text is made from the summary alone, so that the two never disagree.
"""

from collections.abc import Mapping

from ray_ggsm.config import Record
from ray_ggsm.evaluation.metrics import MEAN

TITLES = {
    "encoder": "encoder",
    "untrained": "untrained",
    "handcrafted": "hand-crafted",
    "joined": "both",
    "linear": "linear probe",
    "lightgbm": "LightGBM probe",
}
"""How the keys of the results are written for people; other keys are shown as they are."""

Aucs = Mapping[str, Mapping[str, Mapping[str, float]]]


class Summary(Record):
    """The content of `summary.json`."""

    rows: dict[str, int]
    """Split -> number of rows."""
    label_rates: dict[str, dict[str, float | None]]
    """Split -> label -> share of positives among the rows where it is defined (None: nowhere)."""
    auc: dict[str, dict[str, dict[str, float]]]
    """Vectors -> probe -> label, and "mean" over the labels -> AUC on the test rows."""
    seconds: dict[str, float]
    """Stage -> wall time, seconds."""
    table: str
    """Location of the embedding table."""
    report: str
    """Location of the HTML report."""
    scored: str
    """The split that the AUCs are about."""

    @classmethod
    def of(
        cls,
        *,
        rows: Mapping[str, int],
        label_rates: Mapping[str, Mapping[str, float | None]],
        auc: Aucs,
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


def terminal_summary(summary: Summary) -> str:
    """The summary as a few lines of plain text, at most 100 columns wide for two probes and three encoders."""
    aucs: Aucs = summary.auc
    encoders, kinds = list(aucs), list(next(iter(aucs.values())))
    labels = [label for label in aucs[encoders[0]][kinds[0]] if label != MEAN]
    counts = ", ".join(f"{number:,} {split}" for split, number in summary.rows.items())
    widths = {encoder: max(len(TITLES.get(encoder, encoder)), 6) for encoder in encoders}
    span = sum(widths.values()) + 2 * (len(encoders) - 1)
    left = max(len(label) for label in ["mean AUC", *labels])
    lines = [
        f"AUC on {summary.rows.get(summary.scored, 0):,} test rows ({counts} rows)",
        "",
        _line("", [TITLES.get(kind, kind).center(span) for kind in kinds], left),
        _line("", ["  ".join(TITLES.get(name, name).rjust(widths[name]) for name in encoders) for _ in kinds], left),
    ]
    for label in [MEAN, *labels]:
        cells = ["  ".join(f"{aucs[name][kind][label]:.3f}".rjust(widths[name]) for name in encoders) for kind in kinds]
        lines.append(_line("mean AUC" if label == MEAN else label, cells, left))
    times = "  ".join(f"{stage} {value:.0f} s" for stage, value in summary.seconds.items())
    total = sum(summary.seconds.values())
    lines += [
        "",
        f"time    {times}  (total {total:.0f} s)",
        f"table   {summary.table}",
        f"report  {summary.report}",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _line(name: str, cells: list[str], left: int) -> str:
    return "    ".join([name.ljust(left), *cells])

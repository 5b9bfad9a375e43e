"""The short result of an evaluation: a dict for summary.json and the same as text for the terminal.

The text is made from the dict alone, so that the two never disagree.
"""

from collections.abc import Mapping
from typing import Any

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


def summary(
    *,
    rows: Mapping[str, int],
    label_rates: Mapping[str, Mapping[str, float | None]],
    auc: Aucs,
    seconds: Mapping[str, float],
    table: str,
    report: str,
) -> dict[str, Any]:
    """The content of summary.json: the arguments, and under `auc` a `mean` over the labels for each encoder and probe.

    Args:
        rows: stage -> number of rows.
        label_rates: stage -> label -> share of positives among the rows where it is defined (None: nowhere).
        auc: encoder -> probe -> label -> AUC on the test rows.
        seconds: stage -> wall time in seconds.
        table: location of the embedding table.
        report: location of the HTML report.
    """
    return {
        "rows": dict(rows),
        "label_rates": {stage: dict(rates) for stage, rates in label_rates.items()},
        "auc": {
            encoder: {kind: {**values, MEAN: sum(values.values()) / len(values)} for kind, values in kinds.items()}
            for encoder, kinds in auc.items()
        },
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "table": table,
        "report": report,
    }


def terminal_summary(values: Mapping[str, Any]) -> str:
    """`summary(...)` as a few lines of plain text, at most 100 columns wide for two probes and three encoders."""
    aucs: Aucs = values["auc"]
    encoders, kinds = list(aucs), list(next(iter(aucs.values())))
    labels = [label for label in aucs[encoders[0]][kinds[0]] if label != MEAN]
    counts = ", ".join(f"{number:,} {stage}" for stage, number in values["rows"].items())
    widths = {encoder: max(len(TITLES.get(encoder, encoder)), 6) for encoder in encoders}
    span = sum(widths.values()) + 2 * (len(encoders) - 1)
    left = max(len(label) for label in ["mean AUC", *labels])
    lines = [
        f"AUC on {values['rows'].get('test', 0):,} test rows ({counts} rows)",
        "",
        _line("", [TITLES.get(kind, kind).center(span) for kind in kinds], left),
        _line("", ["  ".join(TITLES.get(name, name).rjust(widths[name]) for name in encoders) for _ in kinds], left),
    ]
    for label in [MEAN, *labels]:
        cells = ["  ".join(f"{aucs[name][kind][label]:.3f}".rjust(widths[name]) for name in encoders) for kind in kinds]
        lines.append(_line("mean AUC" if label == MEAN else label, cells, left))
    times = "  ".join(f"{stage} {value:.0f} s" for stage, value in values["seconds"].items())
    total = sum(values["seconds"].values())
    lines += [
        "",
        f"time    {times}  (total {total:.0f} s)",
        f"table   {values['table']}",
        f"report  {values['report']}",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _line(name: str, cells: list[str], left: int) -> str:
    return "    ".join([name.ljust(left), *cells])

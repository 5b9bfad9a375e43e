"""What a monitored table says, in words, as a table for the terminal, and as gauges."""

import datetime as dt
from collections.abc import Sequence

from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.monitor import ADVICE, FIXED, FRESH, REFERENCE, REFIT, RETRAIN, MonitorResult, PeriodResult


def headline(result: MonitorResult) -> str:
    """The verdict on the newest period in one sentence, with what it rests on."""
    newest = result.periods[-1]
    told = f"{ADVICE[result.verdict]}: in the period from {newest.first} on, "
    if newest.aucs.change:
        changes = ", ".join(f"{probe} probe {_signed(c[MEAN])}" for probe, c in newest.aucs.change.items())
        return f"{told}mean AUC against the reference: {changes}; the limit is {-result.loss:+.3f}"
    if result.verdict == REFERENCE:
        return f"{told}encoder {newest.encoder} has its reference"
    return f"{told}no label has a number ({'; '.join(newest.aucs.too_few) or 'no row has a vector'})"


def encoder_notes(periods: Sequence[PeriodResult]) -> list[str]:
    """A sentence for each encoder that took the place of another one."""
    first = {period.encoder: period.first for period in reversed(periods) if period.encoder is not None}
    days = sorted((day, encoder) for encoder, day in first.items())
    return [
        f"encoder {encoder} is in use from the period of {day} on, which is its reference: probes of another encoder "
        "say nothing about its vectors"
        for day, encoder in days[1:]
    ]


def gauges(result: MonitorResult) -> dict[str, tuple[str, float]]:
    """Name -> help and value."""
    newest = result.periods[-1]
    day = dt.datetime.combine(dt.date.fromisoformat(newest.first), dt.time(), dt.UTC)
    found = {
        "retraining_due": ("Whether the encoder is to be trained anew (0 or 1).", float(result.verdict == RETRAIN)),
        "refitting_due": ("Whether models on the vectors are to be fitted anew (0 or 1).", result.verdict == REFIT),
        "matured_period_timestamp_seconds": ("First day of the newest period with labels.", day.timestamp()),
    }
    for probe, change in newest.aucs.change.items():
        about = f"Mean AUC of the {probe} probe minus that of the reference, in the newest period."
        found[f"{probe}_probe_auc_change"] = (about, change[MEAN].value)
    return {name: (about, float(value)) for name, (about, value) in found.items()}


def terminal_text(result: MonitorResult) -> str:
    """One line per period, then what was left out."""
    lines = [f"{'period':10}  {'encoder':16}  {'rows':>9}  {FIXED:>6}  {FRESH:>6}  {'fixed - reference':25}  verdict"]
    for period in result.periods:
        mean = {probe: labels[MEAN] for probe, labels in period.aucs.auc.items()}
        shown = [f"{mean[probe].value:.3f}" if probe in mean else "" for probe in (FIXED, FRESH)]
        change = _signed(period.aucs.change[FIXED][MEAN]) if period.aucs.change else ""
        lines.append(
            f"{period.first:10}  {period.encoder or 'none':16}  {period.rows:>9,}  {shown[0]:>6}  {shown[1]:>6}  "
            f"{change:25}  {period.aucs.verdict}"
        )
    return "\n".join([*lines, *left_out(result)])


def left_out(result: MonitorResult) -> list[str]:
    """Sentences about rows and labels without a number, and about changes of the encoder."""
    sentences = list(result.notes)
    for period in result.periods:
        told = f"period from {period.first} on: "
        if period.without_vector:
            sentences.append(f"{told}{period.without_vector:,} label rows had no vector at their moment")
        if period.other_encoder:
            sentences.append(f"{told}{period.other_encoder:,} label rows had a vector of another encoder")
        sentences += [told + sentence for sentence in period.aucs.too_few]
    return sentences


def _signed(e: Estimate) -> str:
    return f"{e.value:+.3f} [{e.low:+.3f}, {e.high:+.3f}]"

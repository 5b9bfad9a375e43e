"""A study in words and as Markdown: what to ship, the AUCs, the questions, and every pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_ggsm.evaluation.comparison import Comparison
from ray_ggsm.evaluation.metrics import MEAN
from ray_ggsm.evaluation.study import LEVEL, PairSummary, StudySummary, VariantSummary


@dataclass(frozen=True)
class Cost:
    """What the training of a variant took, means over its seeds."""

    parameters: int
    """Numbers in the saved encoder, heads and codebooks included; not pretrained weights that are not saved with it."""
    rows: float
    """Training rows, each counted as often as it was used."""
    seconds: float
    """Seconds of all steps, reading aside."""


def headline(summary: StudySummary) -> str:
    """What to ship, in one sentence: the highest mean AUC, and which others chance may keep below it."""
    return _highest(summary, [name for name, _ in summary.ranked()])


def findings(summary: StudySummary) -> list[str]:
    """A sentence about each question and one about all pairs; before them one about the best encoder, if the headline
    is about other vectors."""
    names = [name for name, _ in summary.ranked()]
    encoders = [name for name in names if name in summary.encoders]
    sentences = [_answer(question, summary) for question in summary.questions]
    if names[0] not in encoders and len(encoders) > 1:
        sentences.insert(0, f"Of the encoders alone, {_highest(summary, encoders)}")
    differ, pairs = sum(not pair.may_be_chance for pair in summary.pairs), len(summary.pairs)
    sentences.append(
        f"Of all {pairs} pairs, {differ} differ by more than chance (p < {LEVEL} after Holm's correction over all "
        "pairs)."
    )
    return sentences


def cover(summary: StudySummary) -> str:
    """What the intervals of differences stand for."""
    if all(len(summary.variants[name].seeds) > 1 for name in summary.encoders):
        return "their 95 % intervals cover both other users and other training seeds."
    return (
        "their 95 % intervals cover other users. Where a variant has one seed they do not cover other seeds, and are "
        "too narrow for saying which to train."
    )


def markdown(
    title: str,
    summary: StudySummary,
    groups: Mapping[str, Sequence[str]],
    costs: Mapping[str, Cost],
    notes: Sequence[str] = (),
) -> str:
    """The study as a Markdown page.

    Args:
        title: its heading.
        summary: its numbers.
        groups: label group -> labels, in the order of the columns.
        costs: variant -> what its training took.
        notes: sentences about the data and the rows.
    """
    lines = [f"# {title}", "", headline(summary), "", *(f"- {sentence}" for sentence in findings(summary)), ""]
    lines += [line for note in notes for line in (note, "")]
    lines += _auc_table(summary, [label for labels in groups.values() for label in labels])
    lines += _cost_table(summary, costs)
    lines += _pair_table("Questions, fixed before the first result", summary.questions)
    lines += _pair_table("All pairs", summary.pairs)
    return "\n".join(lines) + "\n"


def _auc_table(summary: StudySummary, labels: Sequence[str]) -> list[str]:
    """The table of AUCs by label, shaped like the paper's Table 2."""
    columns = ["seeds", "mean", "between seeds", f"minus {summary.reference} (95 %)", *labels]
    head = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return head + [_auc_row(name, variant, labels) for name, variant in summary.ranked()]


def _auc_row(name: str, variant: VariantSummary, labels: Sequence[str]) -> str:
    minus = "" if variant.minus_reference is None else _difference(variant.minus_reference)
    spread = "" if variant.between_seeds is None else f"{variant.between_seeds:.4f}"
    aucs = " | ".join(f"{variant.auc[label]:.3f}" for label in labels)
    return f"| {name} | {len(variant.seeds)} | {variant.auc[MEAN]:.4f} | {spread} | {minus} | {aucs} |"


def _cost_table(summary: StudySummary, costs: Mapping[str, Cost]) -> list[str]:
    """A section with what each variant's training took, in the order of the AUCs; nothing without variants."""
    if not costs:
        return []
    head = [
        "",
        "## Cost of training",
        "",
        "| | saved parameters | rows | seconds | mean AUC |",
        "|---|---|---|---|---|",
    ]
    return head + [
        f"| {name} | {costs[name].parameters:,} | {costs[name].rows:,.0f} | {costs[name].seconds:,.0f} | "
        f"{variant.auc[MEAN]:.4f} |"
        for name, variant in summary.ranked()
        if name in costs
    ]


def _pair_table(title: str, pairs: Sequence[PairSummary]) -> list[str]:
    """A section with the pairs, the smallest p value first; nothing if there are none."""
    if not pairs:
        return []
    head = ["", f"## {title}", "", "| first | second | difference | 95 % | p (Holm) |", "|---|---|---|---|---|"]
    return head + [
        f"| {pair.first} | {pair.second} | {pair.difference:+.4f} | {_interval(pair)} | {pair.p:.3g} |"
        for pair in sorted(pairs, key=lambda pair: pair.p)
    ]


def _highest(summary: StudySummary, names: Sequence[str]) -> str:
    """A sentence about the first of these ranked names, and those of the others that may be as good."""
    best, *others = names
    even = [name for name in others if summary.pair(best, name).may_be_chance]
    text = f"{best} has the highest mean AUC, {summary.variants[best].auc[MEAN]:.4f}"
    if not even:
        return f"{text}, and is above all {len(others)} others by more than chance."
    if len(even) == len(others):
        return f"{text}, but none of the others can be told apart from it."
    return f"{text}; its lead over {_listed(even)} may be chance."


def _answer(question: PairSummary, summary: StudySummary) -> str:
    resolution = summary.resolution
    if question.may_be_chance:
        words = "cannot be told apart from"
    else:
        words = "is better than" if question.difference > 0 else "is worse than"
    answer = f"{question.first} {words} {question.second}: {_difference(question)}, p = {question.p:.2g}."
    if resolution is None:
        return answer
    half = (question.high - question.low) / 2
    if half <= resolution and summary.test_rows is None:
        return f"{answer} Its interval is ±{half:.4f}, at most ±{resolution}, as asked."
    effort = question.effort(resolution, summary.test_rows / summary.rows if summary.test_rows else 1.0)
    if effort is None:
        return f"{answer} Its interval is ±{half:.4f}; what ±{resolution} would take is unknown with one seed."
    users, seeds = effort
    these = f"the users of the {summary.test_rows:,} test rows" if summary.test_rows else "these test users"
    more = these if users == 1 else f"{users:.1f} times {these}"
    return (
        f"{answer} Its interval is ±{half:.4f}; ±{resolution} would take some {seeds} seeds on {more} (standard error "
        f"of users {question.error_of_users:.4f}, of {question.seeds} seeds {question.error_of_seeds:.4f}, here)."
    )


def _difference(comparison: Comparison) -> str:
    return f"{comparison.difference:+.4f} ({_interval(comparison)})"


def _interval(comparison: Comparison) -> str:
    return f"{comparison.low:+.4f} to {comparison.high:+.4f}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""What a study found: one table shaped like the paper's Table 2, and who differs from whom.

A study has variants (recipes, or any other setting), each trained with several seeds, and baselines without seeds. All
are scored by the same probe on the same test rows.

Shapes: N test rows.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.comparison import compare_seeds, pairwise
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.labels import KEYS
from ray_ggsm.evaluation.measures import MEASURES, measured, probabilities
from ray_ggsm.evaluation.metrics import MEAN, BootstrappedAuc, bootstrap_aucs

LEVEL = 0.05
"""P values below it are called more than chance."""
OTHER_ROWS = (
    "variants: not all have the same test rows and labels, so their AUCs cannot be compared; settings of data.users, "
    "data.splits, data.snapshots and data.labels must be those of all variants"
)


@dataclass(frozen=True)
class Scores:
    """One run's test rows as a probe scores them; the rows and their order are those of every other run."""

    users: np.ndarray
    """(N,)"""
    labels: Mapping[str, np.ndarray]
    """name -> (N,) of 1, 0, NaN"""
    scores: Mapping[str, np.ndarray]
    """the same names -> (N,)"""


def check_labels_agree(prepared: Sequence[pa.Table]) -> None:
    """Refuse label tables of test rows that differ, before anything is trained on what was prepared with them."""
    tables = [table.select([*KEYS, *sorted(set(table.column_names) - {*KEYS})]) for table in prepared]
    first, *others = (table.sort_by([(key, "ascending") for key in KEYS]) for table in tables)
    if not all(table.equals(first) for table in others):
        raise InputError(OTHER_ROWS)


def study_summary(
    runs: Mapping[str, Mapping[int, Scores]],
    reference: str,
    resamples: int,
    kind: Kind,
    questions: Sequence[tuple[str, str]],
    encoders: Collection[str],
) -> dict[str, Any]:
    """Values for JSON: per variant its AUCs, against the reference, the questions, and the matrix of all pairs.

    Args:
        runs: variant -> seed -> scores.
        reference: the variant that all others are compared with.
        resamples: of the users, the same draws for all runs.
        kind: the probe that scored.
        questions: pairs of variants; their p values are corrected for these pairs alone (Holm).
        encoders: the variants whose vectors are an encoder's alone.

    Raises:
        InputError: runs were scored on different rows.
    """
    _check_rows(runs)
    resampled = {
        name: [bootstrap_aucs(s.labels, s.scores, s.users, resamples, seed=0) for _, s in sorted(seeds.items())]
        for name, seeds in runs.items()
    }
    asked = pairwise(resampled, questions)
    matrix = pairwise(resampled, list(itertools.combinations(resampled, 2)))
    return {
        "reference": reference,
        "resamples": resamples,
        "probe": kind,
        "encoders": [name for name in runs if name in encoders],
        "rows": len(next(iter(next(iter(runs.values())).values())).users),
        "variants": {
            name: {
                "seeds": sorted(runs[name]),
                "auc": _means(each),
                "interval": _intervals(each),
                "between_seeds": float(np.std([r.values.mean() for r in each], ddof=1)) if len(each) > 1 else None,
                "mean_of_each_seed": [float(r.values.mean()) for r in each],
                "measures": _measures([scores for _, scores in sorted(runs[name].items())], kind),
                "minus_reference": None if name == reference else asdict(compare_seeds(each, resampled[reference])),
            }
            for name, each in resampled.items()
        },
        "questions": [{"first": a, "second": b, **asdict(c)} for (a, b), c in asked.items()],
        "pairs": [{"first": a, "second": b, **asdict(c)} for (a, b), c in matrix.items()],
    }


def markdown(summary: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
    """The summary as Markdown: findings, AUCs by label (the paper's Table 2), questions, then every pair."""
    labels = [label for names in groups.values() for label in names]
    lines = [*findings(summary), ""]
    lines += [
        "| | seeds | mean | between seeds | minus " + summary["reference"] + " (95 %) | " + " | ".join(labels) + " |",
        "|" + "---|" * (5 + len(labels)),
    ]
    for name, values in ranked(summary):
        other = values["minus_reference"]
        minus = f"{other['difference']:+.4f} ({other['low']:+.4f} to {other['high']:+.4f})" if other else ""
        spread = "" if values["between_seeds"] is None else f"{values['between_seeds']:.4f}"
        aucs = " | ".join(f"{values['auc'][label]:.3f}" for label in labels)
        lines.append(f"| {name} | {len(values['seeds'])} | {values['auc'][MEAN]:.4f} | {spread} | {minus} | {aucs} |")
    for title, pairs in {"Asked before the first result": summary["questions"], "All pairs": summary["pairs"]}.items():
        if pairs:
            lines += [
                "",
                f"## {title}",
                "",
                "| first | second | difference | 95 % | p (Holm) |",
                "|---|---|---|---|---|",
            ]
            lines += [_line(pair) for pair in sorted(pairs, key=lambda pair: pair["p"])]
    return "\n".join(lines) + "\n"


def ranked(summary: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(variant, values), the highest mean AUC first."""
    return sorted(summary["variants"].items(), key=lambda item: -float(item[1]["auc"][MEAN]))


def headline(summary: Mapping[str, Any]) -> str:
    """What to ship, in one sentence: the highest mean AUC, and what cannot be told apart from it."""
    return _highest(summary, [name for name, _ in ranked(summary)])


def findings(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for every question, one for the matrix, and one for the encoders where the headline has another."""
    everything = [name for name, _ in ranked(summary)]
    encoders = [name for name in everything if name in summary["encoders"]]
    told = [_answer(question) for question in summary["questions"]]
    if everything[0] not in encoders and len(encoders) > 1:
        told.insert(0, f"Of the encoders alone, {_highest(summary, encoders)}")
    found = sum(pair["p"] < LEVEL for pair in summary["pairs"])
    pairs = len(summary["pairs"])
    told.append(f"Of all {pairs} pairs, {found} differ by more than chance (p < {LEVEL} after Holm over all pairs).")
    return [f"- {sentence}" for sentence in told]


def _highest(summary: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of these names, which are ranked, and the others that cannot be told apart from it."""
    best, *others = names
    even = [name for name in others if pair_of(summary, best, name)["p"] >= LEVEL]
    text = f"{best} has the highest mean AUC, {summary['variants'][best]['auc'][MEAN]:.4f}"
    if not even:
        return f"{text}, and is above all {len(others)} others by more than chance."
    if len(even) == len(others):
        return f"{text}, but none of the others can be told apart from it."
    return f"{text}; chance may explain what is between it and {_listed(even)}."


def pair_of(summary: Mapping[str, Any], first: str, second: str) -> dict[str, float]:
    """The comparison `first - second`, whichever way round it was made."""
    for pair in summary["pairs"]:
        if (pair["first"], pair["second"]) == (first, second):
            return dict(pair)
        if (pair["first"], pair["second"]) == (second, first):
            return {**pair, "difference": -pair["difference"], "low": -pair["high"], "high": -pair["low"]}
    raise AssertionError(f"no pair {first}, {second}")


def _answer(question: Mapping[str, Any]) -> str:
    first, second = question["first"], question["second"]
    numbers = f"{question['difference']:+.4f} ({question['low']:+.4f} to {question['high']:+.4f})"
    if question["p"] >= LEVEL:
        words = "cannot be told apart from"
    else:
        words = "is better than" if question["difference"] > 0 else "is worse than"
    return f"{first} {words} {second}: {numbers}, p = {question['p']:.2g}."


def _line(pair: Mapping[str, Any]) -> str:
    interval = f"{pair['low']:+.4f} to {pair['high']:+.4f}"
    return f"| {pair['first']} | {pair['second']} | {pair['difference']:+.4f} | {interval} | {pair['p']:.3g} |"


def _intervals(each: Sequence[BootstrappedAuc]) -> dict[str, tuple[float, float]]:
    """95 % over test users, of the mean over seeds."""
    values = np.mean([run.values for run in each], axis=0)
    resampled_RL = np.mean([run.resampled for run in each], axis=0)
    estimates = BootstrappedAuc(each[0].names, values, resampled_RL).intervals()
    return {name: (estimate.low, estimate.high) for name, estimate in estimates.items()}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _measures(each: Sequence[Scores], kind: Kind) -> dict[str, float]:
    """Measure -> mean over labels and seeds."""
    values = [
        label
        for run in each
        for label in measured(run.labels, {n: probabilities(kind, s) for n, s in run.scores.items()}).values()
    ]
    return {name: float(np.mean([label[name] for label in values])) for name in MEASURES}


def _check_rows(runs: Mapping[str, Mapping[int, Scores]]) -> None:
    all_runs = [scores for seeds in runs.values() for scores in seeds.values()]
    first = all_runs[0]
    for scores in all_runs[1:]:
        same = np.array_equal(scores.users, first.users) and scores.labels.keys() == first.labels.keys()
        if not same or not all(np.array_equal(v, first.labels[n], equal_nan=True) for n, v in scores.labels.items()):
            raise InputError(OTHER_ROWS)


def _means(each: Sequence[BootstrappedAuc]) -> dict[str, float]:
    value_L = np.mean([run.values for run in each], axis=0)
    return {**dict(zip(each[0].names, map(float, value_L), strict=True)), MEAN: float(value_L.mean())}

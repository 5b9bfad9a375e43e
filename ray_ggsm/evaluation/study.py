"""What a study found: one table shaped like the paper's Table 2, and who differs from whom.

A study has variants (recipes, or any other setting), each trained with several seeds, and baselines without seeds. All
are scored by the same probe on the same test rows.

Shapes: N test rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_ggsm.evaluation.comparison import Comparison, compare_seeds, pairwise
from ray_ggsm.evaluation.metrics import MEAN, BootstrappedAuc, bootstrap_aucs


@dataclass(frozen=True)
class Scores:
    """One run's test rows as a probe scores them; the rows and their order are those of every other run."""

    users: np.ndarray
    """(N,)"""
    labels: Mapping[str, np.ndarray]
    """name -> (N,) of 1, 0, NaN"""
    scores: Mapping[str, np.ndarray]
    """the same names -> (N,)"""


def study_summary(runs: Mapping[str, Mapping[int, Scores]], reference: str, resamples: int) -> dict[str, Any]:
    """Values for JSON: per variant its AUCs, against the reference, and the matrix of all pairs.

    Args:
        runs: variant -> seed -> scores.
        reference: the variant that all others are compared with.
        resamples: of the users, the same draws for all runs.
    """
    _check_rows(runs)
    resampled = {
        name: [bootstrap_aucs(s.labels, s.scores, s.users, resamples, seed=0) for _, s in sorted(seeds.items())]
        for name, seeds in runs.items()
    }
    matrix = pairwise(resampled)
    return {
        "reference": reference,
        "resamples": resamples,
        "variants": {
            name: {
                "seeds": sorted(runs[name]),
                "auc": _means(each),
                "between_seeds": float(np.std([r.values.mean() for r in each], ddof=1)) if len(each) > 1 else None,
                "mean_of_each_seed": [float(r.values.mean()) for r in each],
                "minus_reference": None if name == reference else _told(compare_seeds(each, resampled[reference])),
            }
            for name, each in resampled.items()
        },
        "pairs": [{"first": a, "second": b, **_told(c)} for (a, b), c in matrix.items()],
    }


def markdown(summary: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> str:
    """The summary as Markdown tables: AUCs by label, then every pair with its corrected p value."""
    labels = [label for names in groups.values() for label in names]
    found = sorted(summary["variants"].items(), key=lambda item: -item[1]["auc"][MEAN])
    lines = [
        "| | seeds | mean | between seeds | minus " + summary["reference"] + " (95 %) | " + " | ".join(labels) + " |",
        "|" + "---|" * (5 + len(labels)),
    ]
    for name, values in found:
        other = values["minus_reference"]
        minus = f"{other['difference']:+.4f} ({other['low']:+.4f} to {other['high']:+.4f})" if other else ""
        spread = "" if values["between_seeds"] is None else f"{values['between_seeds']:.4f}"
        aucs = " | ".join(f"{values['auc'][label]:.3f}" for label in labels)
        lines.append(f"| {name} | {len(values['seeds'])} | {values['auc'][MEAN]:.4f} | {spread} | {minus} | {aucs} |")
    lines += ["", "| first | second | difference | 95 % | p (Holm) |", "|---|---|---|---|---|"]
    for pair in sorted(summary["pairs"], key=lambda pair: pair["p"]):
        interval = f"{pair['low']:+.4f} to {pair['high']:+.4f}"
        lines.append(
            f"| {pair['first']} | {pair['second']} | {pair['difference']:+.4f} | {interval} | {pair['p']:.3g} |"
        )
    return "\n".join(lines) + "\n"


def verdict(summary: Mapping[str, Any]) -> str:
    """One sentence: how many differences are more than chance."""
    found = [pair for pair in summary["pairs"] if pair["p"] < 0.05]
    if not found:
        return f"None of {len(summary['pairs'])} differences is more than chance (p < .05 after Holm)."
    return f"{len(found)} of {len(summary['pairs'])} differences are more than chance (p < .05, Holm)."


def _check_rows(runs: Mapping[str, Mapping[int, Scores]]) -> None:
    all_runs = [scores for seeds in runs.values() for scores in seeds.values()]
    for scores in all_runs[1:]:
        assert np.array_equal(scores.users, all_runs[0].users), "all runs must be scored on the same rows"
        for label, values_N in scores.labels.items():
            assert np.array_equal(values_N, all_runs[0].labels[label], equal_nan=True), "labels must be the same"


def _means(each: Sequence[BootstrappedAuc]) -> dict[str, float]:
    value_L = np.mean([run.values for run in each], axis=0)
    return {**dict(zip(each[0].names, map(float, value_L), strict=True)), MEAN: float(value_L.mean())}


def _told(comparison: Comparison) -> dict[str, float]:
    return {
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
        "standard_error": comparison.standard_error,
        "p": comparison.p,
    }

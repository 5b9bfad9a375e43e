"""The numbers of a study: a table shaped like the paper's Table 2, and which variants differ.

A study has variants (recipes, or any other setting), each trained with several seeds, and baselines without seeds. The
same kind of probe scores all of them on the same test rows.

Shapes: N test rows.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ray_ggsm.config import InputError, Record
from ray_ggsm.evaluation.comparison import Comparison, Runs, compare_seeds, pairwise
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.cross_fitting import by_fold, mean_over_folds
from ray_ggsm.evaluation.keys import KEYS
from ray_ggsm.evaluation.measures import MEASURES, measured, probabilities
from ray_ggsm.evaluation.metrics import MEAN, BootstrappedAuc, bootstrap_aucs

LEVEL = 0.05
"""Largest p value of a difference that counts as more than chance."""
OTHER_ROWS = (
    "variants: not all have the same test rows and labels, so their AUCs cannot be compared; settings of data.users, "
    "data.splits, data.snapshots and data.labels must be those of all variants"
)


@dataclass(frozen=True)
class Scores:
    """The scores that a probe gave the test rows of one run; all runs have the same rows in the same order."""

    users: np.ndarray
    """(N,) user identifiers."""
    labels: Mapping[str, np.ndarray]
    """Label -> (N,) of 1, 0, NaN."""
    scores: Mapping[str, np.ndarray]
    """Label -> (N,)."""
    fold_N: np.ndarray | None = None
    """The fold of each row, if each fold was scored by a probe of its own; all measures then are means over folds."""

    def aucs(self, resamples: int) -> BootstrappedAuc:
        """AUC of each label; all calls with the same users draw the same ones."""
        if self.fold_N is None:
            return bootstrap_aucs(self.labels, self.scores, self.users, resamples, seed=0)
        return mean_over_folds(self.labels, self.scores, self.users, self.fold_N, resamples, seed=0)

    def measured(self, kind: Kind) -> list[dict[str, float]]:
        """Measure -> value, for each label (and fold)."""
        labels, scores = self.labels, self.scores
        if self.fold_N is not None:
            labels, scores = by_fold(labels, scores, self.fold_N)
        return list(measured(labels, {name: probabilities(kind, score_N) for name, score_N in scores.items()}).values())


class PairSummary(Comparison):
    """The difference of two variants' mean AUCs, `first - second`."""

    first: str
    second: str

    @property
    def may_be_chance(self) -> bool:
        """Whether chance may explain the difference."""
        return self.p >= LEVEL

    def reversed(self) -> "PairSummary":
        """The same comparison as `second - first`."""
        return self.model_copy(
            update={
                "first": self.second,
                "second": self.first,
                "difference": -self.difference,
                "low": -self.high,
                "high": -self.low,
            }
        )


class VariantSummary(Record):
    """The numbers of one variant."""

    seeds: tuple[int, ...]
    auc: dict[str, float]
    """Label, and "mean" -> AUC, mean over seeds."""
    interval: dict[str, tuple[float, float]]
    """Label, and "mean" -> 95 % interval of `auc` over test users."""
    between_seeds: float | None
    """Standard deviation of the mean AUC between seeds; None for one seed."""
    mean_of_each_seed: tuple[float, ...]
    """Mean AUC of each seed."""
    measures: dict[str, float]
    """Measure -> mean over labels and seeds."""
    minus_reference: Comparison | None
    """Difference of the mean AUC to the reference's, not corrected for the number of variants; None for the reference
    itself."""


class StudySummary(Record):
    """The content of `study.json`, beside the study's config."""

    reference: str
    """Variant that the others are compared with."""
    resamples: int
    """Number of resamples of the test users."""
    probe: Kind
    encoders: tuple[str, ...]
    """Variants whose vectors come from an encoder alone."""
    rows: int
    """Number of test rows."""
    variants: dict[str, VariantSummary]
    resolution: float | None = None
    """Half width that the intervals of the questions should have, for the page."""
    test_rows: int | None = None
    """Number of test rows, if others were scored (`scored: fit`): what `resolution` would take is said for these."""
    questions: tuple[PairSummary, ...]
    """Pairs fixed before the first result; p values after Holm's correction over the questions."""
    pairs: tuple[PairSummary, ...]
    """All pairs; p values after Holm's correction over all pairs."""

    def ranked(self) -> list[tuple[str, VariantSummary]]:
        """(name, variant), the highest mean AUC first."""
        return sorted(self.variants.items(), key=lambda item: -item[1].auc[MEAN])

    def pair(self, first: str, second: str) -> PairSummary:
        """The comparison `first - second`, in whichever order `pairs` has it."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.first, pair.second) == (second, first):
                return pair.reversed()
        raise AssertionError(f"no pair {first}, {second}")


def check_labels_agree(prepared: Sequence[pa.Table]) -> None:
    """Refuse label tables with different test rows or labels, so that nothing is trained on them."""
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
) -> StudySummary:
    """Compare all variants with the reference and with each other; arguments as the fields of `StudySummary`.

    Args:
        runs: variant -> seed -> scores.
        reference: name of a variant.
        resamples: number of resamples of the users; all runs get the same draws.
        kind: the kind of probe that scored.
        questions: pairs of variants.
        encoders: names of variants.

    Raises:
        InputError: the runs were scored on different rows.
    """
    _check_rows(runs)
    resampled = {
        name: {seed: scores.aucs(resamples) for seed, scores in sorted(seeds.items())} for name, seeds in runs.items()
    }
    return StudySummary(
        reference=reference,
        resamples=resamples,
        probe=kind,
        encoders=tuple(name for name in runs if name in encoders),
        rows=len(next(iter(runs[reference].values())).users),
        variants={
            name: _variant(seeds, resampled[name], None if name == reference else resampled[reference], kind)
            for name, seeds in runs.items()
        },
        questions=_pairs(resampled, questions),
        pairs=_pairs(resampled, list(itertools.combinations(resampled, 2))),
    )


def _check_rows(runs: Mapping[str, Mapping[int, Scores]]) -> None:
    first, *others = [scores for seeds in runs.values() for scores in seeds.values()]
    for scores in others:
        same = np.array_equal(scores.users, first.users) and scores.labels.keys() == first.labels.keys()
        if not same or not all(np.array_equal(v, first.labels[n], equal_nan=True) for n, v in scores.labels.items()):
            raise InputError(OTHER_ROWS)


def _variant(
    seeds: Mapping[int, Scores],
    resampled: Runs,
    baseline: Runs | None,
    kind: Kind,
) -> VariantSummary:
    """The numbers of a variant; `baseline` holds the reference's AUCs, None for the reference itself."""
    runs = list(resampled.values())
    means = [float(run.values.mean()) for run in runs]
    return VariantSummary(
        seeds=tuple(sorted(seeds)),
        auc=_means(runs),
        interval=_intervals(runs),
        between_seeds=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        mean_of_each_seed=tuple(means),
        measures=_measures([scores for _, scores in sorted(seeds.items())], kind),
        minus_reference=None if baseline is None else compare_seeds(resampled, baseline),
    )


def _means(resampled: Sequence[BootstrappedAuc]) -> dict[str, float]:
    value_L = np.mean([run.values for run in resampled], axis=0)
    return {**dict(zip(resampled[0].names, map(float, value_L), strict=True)), MEAN: float(value_L.mean())}


def _intervals(resampled: Sequence[BootstrappedAuc]) -> dict[str, tuple[float, float]]:
    """95 % intervals of the mean over seeds."""
    values = np.mean([run.values for run in resampled], axis=0)
    resampled_RL = np.mean([run.resampled for run in resampled], axis=0)
    estimates = BootstrappedAuc(resampled[0].names, values, resampled_RL).intervals()
    return {name: (estimate.low, estimate.high) for name, estimate in estimates.items()}


def _measures(runs: Sequence[Scores], kind: Kind) -> dict[str, float]:
    """Measure -> mean over labels and seeds."""
    values = [label for run in runs for label in run.measured(kind)]
    return {name: float(np.mean([label[name] for label in values])) for name in MEASURES}


def _pairs(resampled: Mapping[str, Runs], pairs: Sequence[tuple[str, str]]) -> tuple[PairSummary, ...]:
    return tuple(
        PairSummary(first=first, second=second, **comparison.model_dump())
        for (first, second), comparison in pairwise(resampled, pairs).items()
    )

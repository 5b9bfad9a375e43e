"""Where labels are few: probes that are fitted on small draws of the labelled rows, and scored on all test rows.

A draw has one row per user and the label's own share of positives, but at least as many of each class as there are
folds. All vectors get the same draws, so their differences are paired.

Legend: N rows to fit on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import FewLabelsConfig, ProbeConfig
from ray_ggsm.evaluation.results import Probed

ProbeAll = Callable[[ProbeConfig, int, Mapping[str, ProbeData]], Probed]
"""Settings, seed and vectors -> the results of all probes."""


@dataclass(frozen=True)
class FewLabels:
    """Mean AUCs over the labels, of linear probes on the test rows."""

    rows: tuple[int, ...]
    """Numbers of labelled rows."""
    auc: dict[str, list[list[float]]]
    """Name of vectors -> for each number of rows, the value of each draw."""

    def mean(self, name: str, place: int) -> float:
        """Mean over the draws."""
        return float(np.mean(self.auc[name][place]))

    def difference(self, first: str, second: str, place: int) -> tuple[float, float]:
        """The first vectors minus the second: mean and standard deviation over the draws."""
        differences = np.subtract(self.auc[first][place], self.auc[second][place])
        return float(differences.mean()), float(differences.std(ddof=1)) if len(differences) > 1 else 0.0


def few_labels(
    config: ProbeConfig, few: FewLabelsConfig, seed: int, vectors: Mapping[str, ProbeData], probe_all: ProbeAll
) -> FewLabels:
    """Fit linear probes on draws of each size; raises like `check_draws`."""
    linear = config.model_copy(update={"kinds": ("linear",)})
    auc: dict[str, list[list[float]]] = {name: [] for name in vectors}
    for draw, labels in _draws(config, few, seed, next(iter(vectors.values())).fit):
        data = {name: replace(d, fit=replace(d.fit, labels=labels)) for name, d in vectors.items()}
        for (name, _), results in probe_all(linear, seed, data).items():
            if draw == 0:
                auc[name].append([])
            auc[name][-1].append(float(np.mean([result.auc for result in results.values()])))
    return FewLabels(few.rows, auc)


def check_draws(config: ProbeConfig, few: FewLabelsConfig, seed: int, fit: Aligned) -> None:
    """Make all draws once, before any probe is fitted.

    Raises:
        InputError: a label has not enough users for a draw.
    """
    for _ in _draws(config, few, seed, fit):
        pass


def _draws(
    config: ProbeConfig, few: FewLabelsConfig, seed: int, fit: Aligned
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Number of the draw, and its labels, for each number of rows."""
    for rows in few.rows:
        for draw in range(few.draws):
            yield (
                draw,
                {
                    label: drawn(values_N, fit.users, rows, config.folds, (seed, draw), label)
                    for label, values_N in fit.labels.items()
                },
            )


def drawn(
    labels_N: np.ndarray, users_N: np.ndarray, rows: int, folds: int, seed: Sequence[int], label: str
) -> np.ndarray:
    """The labels of a draw, NaN at all other rows, (N,).

    Args:
        labels_N: 1 positive, 0 negative, NaN undefined.
        users_N: the user of each row.
        rows: number of rows to draw.
        folds: number of rows that each class has at least.
        seed: seed of the draw; smaller draws of one seed are parts of larger ones, class by class.
        label: name of the label in errors.

    Raises:
        InputError: too few users have such a row.
    """
    shuffled = np.random.default_rng(list(seed)).permutation(len(labels_N))
    shuffled = shuffled[~np.isnan(labels_N[shuffled])]
    _, first = np.unique(users_N[shuffled], return_index=True)
    one_each = shuffled[np.sort(first)]
    is_positive = labels_N[one_each] == 1
    share = float(np.nanmean(labels_N))
    positives = min(max(round(share * rows), folds), rows - folds)
    chosen = np.concatenate([one_each[is_positive][:positives], one_each[~is_positive][: rows - positives]])
    if len(chosen) < rows or positives < folds:
        raise InputError(
            f"evaluation.few_labels.rows: {rows} rows of label '{label}' need {positives} users with a positive row "
            f"and {rows - positives} others, but the draw found {is_positive.sum()} and {(~is_positive).sum()}; give "
            f"other numbers, at least {2 * folds}"
        )
    values_N = np.full(len(labels_N), np.nan, dtype=np.float32)
    values_N[chosen] = labels_N[chosen]
    return values_N

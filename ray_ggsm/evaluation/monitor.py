"""Do the vectors of a table still tell what happens next? Probe AUC, period by period, on labels that have matured.

Two probes score the rows of a period. The fixed one was fitted on the first period of the encoder, its reference, and
stands for the models that teams have in use. The fresh one was fitted on the period itself. Both score a user only
after a fit without this user: users are dealt to folds, the same in every period; an AUC is the mean over the folds.

Intervals draw users with all their rows, in all periods at once, so a change against the reference is paired where
users recur. They do not cover the choice of the rows that a probe was fitted on.

Shapes: N rows of one encoder, L labels, F folds, R resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import Field

from ray_ggsm.config import Config, Record
from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.cross_fitting import ProbeAll, cross_fitted, folds_of, mean_over_folds
from ray_ggsm.evaluation.metrics import MEAN, BootstrappedAuc, Estimate, paired_difference
from ray_ggsm.evaluation.results import RESAMPLES

FIXED, FRESH = "fixed", "fresh"
"""The probe of the reference period, and that of the period itself."""
HOLDS, REFIT, RETRAIN = "holds", "refit", "retrain"
"""Verdicts: nothing to do; fit models on the vectors anew; train the encoder anew."""
REFERENCE, TOO_FEW = "reference", "too few labels"
"""Verdicts on periods without a comparison."""
ADVICE = {
    HOLDS: "nothing is due",
    REFIT: "fit your models on the vectors anew",
    RETRAIN: "train the encoder anew",
    REFERENCE: "nothing to compare yet",
    TOO_FEW: "no verdict",
}
"""Verdict -> what to do."""


class RetrainConfig(Config):
    """When something is due."""

    loss: float = Field(0.01, ge=0, lt=0.5)
    """A probe has fallen when the whole 95 % interval of its change of mean AUC lies below minus this."""
    min_users: int = Field(50, ge=10)
    """Users with a positive row, and users with a negative one, that a label needs in a period; with fewer it has no
    number there."""


class PeriodAucs(Record):
    """What both probes reach in one period."""

    verdict: str = TOO_FEW
    """A key of ADVICE."""
    too_few: tuple[str, ...] = ()
    """A sentence for each label without a number."""
    auc: dict[str, dict[str, Estimate]] = Field({})
    """Probe -> label, and "mean" -> AUC; the reference has the fixed probe alone."""
    change: dict[str, dict[str, Estimate]] = Field({})
    """Probe -> label, and "mean" -> AUC minus that of the reference on the same labels; empty for the reference."""


class PeriodResult(Record):
    """One period: the rows whose moments are in it, and what both probes reach there."""

    first: str
    """Its first day."""
    end: str
    """The day after its last."""
    encoder: str | None
    """Digest of the encoder of most of its vectors; None: no row has a vector."""
    rows: int
    """Rows with a vector of this encoder."""
    users: int
    """Their users."""
    without_vector: int
    """Rows left out: their user had no vector at their moment."""
    other_encoder: int
    """Rows left out: their user's vector was of another encoder."""
    aucs: PeriodAucs = PeriodAucs()


class MonitorResult(Record):
    """The content of monitor.json."""

    table: str
    version: int
    as_of: str
    """Labels count whose horizon had passed at the beginning of this day."""
    loss: float
    """As in the config."""
    verdict: str
    """Of the newest period: a key of ADVICE."""
    periods: tuple[PeriodResult, ...]
    """Oldest first."""
    notes: tuple[str, ...]
    """Sentences about what was left out, and about changes of the encoder."""


def verdict_of(change: Mapping[str, Mapping[str, Estimate]], loss: float) -> str:
    """What the changes of both probes (probe -> label, and "mean") say."""
    fallen = {probe: labels[MEAN].high < -loss for probe, labels in change.items()}
    if not fallen[FIXED]:
        return HOLDS
    return RETRAIN if fallen[FRESH] else REFIT


def follow(
    rows: Aligned, period_N: np.ndarray, config: ProbeConfig, rule: RetrainConfig, seed: int, probe_all: ProbeAll
) -> dict[int, PeriodAucs]:
    """What both probes reach in each period of one encoder.

    Args:
        rows: all rows of the encoder.
        period_N: number of each row's period; the smallest is the reference.
        config: settings of the probes, of one kind.
        rule: when something is due.
        seed: of probes and resampling.
        probe_all: fits probes.
    """
    fits = _Fits(rows, config, seed, probe_all)
    first, *others = np.unique(period_N).tolist()
    labels, too_few = fits.usable(period_N == first, rule.min_users)
    if not labels:
        none = PeriodAucs(too_few=("its reference has no number to compare with",))
        return {first: PeriodAucs(too_few=too_few), **dict.fromkeys(others, none)}
    fixed = fits.scores(period_N == first, np.ones(len(period_N), dtype=bool), labels)
    before = fits.aucs(fixed, period_N == first, labels)
    found = {first: PeriodAucs(verdict=REFERENCE, too_few=too_few, auc={FIXED: before.intervals()})}
    for n in others:
        here_N = period_N == n
        usable, too_few = fits.usable(here_N, rule.min_users)
        both = [label for label in labels if label in usable]
        found[n] = PeriodAucs(too_few=too_few)
        if both:
            scores = {FIXED: fixed, FRESH: fits.scores(here_N, here_N, both)}
            aucs = {probe: fits.aucs(each, here_N, both) for probe, each in scores.items()}
            change = {probe: paired_difference(each, _only(before, both)) for probe, each in aucs.items()}
            intervals = {probe: each.intervals() for probe, each in aucs.items()}
            verdict = verdict_of(change, rule.loss)
            found[n] = PeriodAucs(verdict=verdict, too_few=too_few, auc=intervals, change=change)
    return found


class _Fits:
    """Cross-fitted probes on the rows of one encoder."""

    def __init__(self, rows: Aligned, config: ProbeConfig, seed: int, probe_all: ProbeAll) -> None:
        self.rows, self.config, self.seed, self.probe_all = rows, config, seed, probe_all
        self.fold_N = folds_of(rows.users, config.folds)

    def scores(self, fit_N: np.ndarray, score_N: np.ndarray, labels: Sequence[str]) -> dict[str, np.ndarray]:
        """Label -> (N,) scores of the rows `score_N` (bool) by probes on rows `fit_N` of other folds; NaN elsewhere."""
        return cross_fitted(self.rows, fit_N, score_N, labels, self.config, self.seed, self.probe_all)

    def aucs(self, scores: Mapping[str, np.ndarray], here_N: np.ndarray, labels: Sequence[str]) -> BootstrappedAuc:
        """AUCs of the rows `here_N` (bool), means over the folds; all calls draw the same users."""
        truth = {label: np.where(here_N, self.rows.labels[label], np.nan) for label in labels}
        return mean_over_folds(truth, scores, self.rows.users, self.fold_N, RESAMPLES, self.seed)

    def usable(self, here_N: np.ndarray, least: int) -> tuple[list[str], tuple[str, ...]]:
        """The labels that have `least` users of each class among the rows `here_N` (bool), and some in every fold; a
        sentence for each of the others."""
        usable, sentences, folds = [], [], self.config.folds
        for label, values_N in self.rows.labels.items():
            users_2F = np.stack([self._users_per_fold(here_N & (values_N == value)) for value in (1, 0)])
            positive, negative = users_2F.sum(axis=1).tolist()
            others_2F = users_2F.sum(axis=1, keepdims=True) - users_2F  # a probe is fitted on them, in folds again
            if min(positive, negative) >= least and users_2F.min() > 0 and others_2F.min() >= folds:
                usable.append(label)
            else:
                sentences.append(
                    f"label '{label}': {positive:,} users with a positive row and {negative:,} with a negative one are "
                    f"too few; a number needs {least:,} of each, spread over {folds} folds"
                )
        return usable, tuple(sentences)

    def _users_per_fold(self, which_N: np.ndarray) -> np.ndarray:
        """Number of different users of some rows in each fold, (F,)."""
        _, place = np.unique(self.rows.users[which_N], return_index=True)
        return np.bincount(self.fold_N[which_N][place], minlength=self.config.folds)


def _only(auc: BootstrappedAuc, labels: Sequence[str]) -> BootstrappedAuc:
    places = [auc.names.index(label) for label in labels]
    return BootstrappedAuc(tuple(labels), auc.values[places], auc.resampled[:, places])

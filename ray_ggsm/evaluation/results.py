"""All numbers about the test rows: the encoder on trial against other vectors of the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass

from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.comparison import delong, holm
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.measures import MEASURES, calibration_of_all, measured, probabilities
from ray_ggsm.evaluation.metrics import MEAN, ByLabel, Estimate, bootstrap_aucs, paired_difference
from ray_ggsm.evaluation.probes import ProbeResult

Probed = Mapping[tuple[str, Kind], Mapping[str, ProbeResult]]
"""(name of vectors, probe) -> label -> result."""
RESAMPLES = 1000
"""Bootstrap resamples of the test users behind every interval."""


@dataclass(frozen=True)
class Results:
    """All numbers about the test rows. "The others" are all vectors but the first."""

    auc: ByLabel[Estimate]
    """AUCs by label, and under "mean"."""
    differences: ByLabel[Estimate]
    """AUCs of the first vectors minus those of each of the others, paired; by label, and under "mean"."""
    delong: ByLabel[float]
    """P value of each of these differences, after Holm's correction over the labels."""
    measures: ByLabel[dict[str, float]]
    """Measure -> value, by label."""
    calibration: dict[str, dict[str, list[tuple[float, float]]]]
    """Probe -> name of vectors -> (predicted rate, observed rate), all labels together."""

    def mean_measures(self) -> dict[str, dict[str, dict[str, float]]]:
        """Name of vectors -> probe -> measure -> mean over the labels."""
        return {
            vectors: {
                kind: {name: sum(values[name] for values in labels.values()) / len(labels) for name in MEASURES}
                for kind, labels in kinds.items()
            }
            for vectors, kinds in self.measures.items()
        }


def results(probed: Probed, test: Mapping[str, Aligned], seed: int) -> Results:
    """Compare the first vectors with all others.

    Args:
        probed: what the probes found, every kind of probe on all vectors.
        test: name of vectors -> test rows; all have the same rows in the same order.
        seed: seed of the bootstrap.
    """
    names, kinds = list(dict.fromkeys(name for name, _ in probed)), list(dict.fromkeys(kind for _, kind in probed))
    first, *others = names
    resampled = {
        (name, kind): bootstrap_aucs(
            test[name].labels, {label: r.scores for label, r in labels.items()}, test[name].users, RESAMPLES, seed
        )
        for (name, kind), labels in probed.items()
    }
    probability = {
        (name, kind): {label: probabilities(kind, r.scores) for label, r in labels.items()}
        for (name, kind), labels in probed.items()
    }
    return Results(
        auc={n: {k: resampled[n, k].intervals() for k in kinds} for n in names},
        differences={o: {k: paired_difference(resampled[first, k], resampled[o, k]) for k in kinds} for o in others},
        delong={o: {k: _delong(test[first], probed[first, k], probed[o, k]) for k in kinds} for o in others},
        measures={n: {k: measured(test[n].labels, probability[n, k]) for k in kinds} for n in names},
        calibration={k: {n: calibration_of_all(test[n].labels, probability[n, k]) for n in names} for k in kinds},
    )


def by_label(found: Results, probed: Probed) -> ByLabel[dict[str, float]]:
    """The content of results.json by label: AUCs with the ends of their 95 % intervals, measures, and the
    hyperparameters that cross-validation chose."""
    values: ByLabel[dict[str, float]] = {}
    for (name, kind), labels in probed.items():
        values.setdefault(name, {})[kind] = {
            label: {
                "auc": r.auc,
                "auc_low": found.auc[name][kind][label].low,
                "auc_high": found.auc[name][kind][label].high,
                "cv_auc": r.cv_auc,
                **found.measures[name][kind][label],
                **r.hyperparameters,
            }
            for label, r in labels.items()
        }
    return values


def mean_aucs(found: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Name of vectors -> probe -> mean AUC over the labels, with the ends of its interval."""
    return {
        name: {
            kind: {"auc": each[MEAN].value, "auc_low": each[MEAN].low, "auc_high": each[MEAN].high}
            for kind, each in kinds.items()
        }
        for name, kinds in found.auc.items()
    }


def _delong(test: Aligned, first: Mapping[str, ProbeResult], second: Mapping[str, ProbeResult]) -> dict[str, float]:
    p = [delong(test.labels[label], first[label].scores, second[label].scores).p for label in first]
    return dict(zip(first, holm(p).tolist(), strict=True))

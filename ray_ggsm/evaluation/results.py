"""What the probes found, brought together: one encoder on trial against other vectors of the same test rows.

Everything is keyed by table ("encoder", "untrained", ...), probe and label, as summary.json and the report are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_ggsm.evaluation.comparison import delong, holm
from ray_ggsm.evaluation.config import Kind
from ray_ggsm.evaluation.labels import Aligned
from ray_ggsm.evaluation.measures import MEASURES, calibration_of_all, measured, probabilities
from ray_ggsm.evaluation.metrics import Estimate, bootstrap_aucs, paired_difference
from ray_ggsm.evaluation.probes import ProbeResult

Probed = Mapping[tuple[str, Kind], Mapping[str, ProbeResult]]
"""(table, probe) -> label -> result."""
RESAMPLES = 1000
"""Bootstrap resamples of the test users behind every interval."""


@dataclass(frozen=True)
class Results:
    """All numbers about the test rows."""

    auc: dict[str, dict[str, dict[str, Estimate]]]
    """table -> probe -> label (and "mean") -> AUC"""
    differences: dict[str, dict[str, dict[str, Estimate]]]
    """other table -> probe -> label (and "mean") -> first table minus other, paired"""
    delong: dict[str, dict[str, dict[str, float]]]
    """other table -> probe -> label -> p, after Holm's correction over the labels"""
    measures: dict[str, dict[str, dict[str, dict[str, float]]]]
    """table -> probe -> label -> measure -> value"""
    calibration: dict[str, dict[str, list[tuple[float, float]]]]
    """probe -> table -> (predicted, observed), all labels together"""

    def mean_measures(self) -> dict[str, dict[str, dict[str, float]]]:
        """table -> probe -> measure -> mean over the labels."""
        return {
            table: {
                kind: {name: sum(values[name] for values in labels.values()) / len(labels) for name in MEASURES}
                for kind, labels in kinds.items()
            }
            for table, kinds in self.measures.items()
        }


def results(probed: Probed, test: Mapping[str, Aligned], seed: int) -> Results:
    """Compare the first table with all others.

    Args:
        probed: as `ray_ggsm.on_ray.evaluate.probe_all` gives it.
        test: table -> its test rows; all of the same rows in the same order.
        seed: of the bootstrap.
    """
    tables, kinds = list(dict.fromkeys(t for t, _ in probed)), list(dict.fromkeys(k for _, k in probed))
    first, *others = tables
    resampled = {
        (table, kind): bootstrap_aucs(
            test[table].labels, {name: r.scores for name, r in found.items()}, test[table].users, RESAMPLES, seed
        )
        for (table, kind), found in probed.items()
    }
    probability = {
        (table, kind): {name: probabilities(kind, r.scores) for name, r in found.items()}
        for (table, kind), found in probed.items()
    }
    return Results(
        auc={t: {k: resampled[t, k].intervals() for k in kinds} for t in tables},
        differences={o: {k: paired_difference(resampled[first, k], resampled[o, k]) for k in kinds} for o in others},
        delong={o: {k: _delong(test[first], probed[first, k], probed[o, k]) for k in kinds} for o in others},
        measures={t: {k: measured(test[t].labels, probability[t, k]) for k in kinds} for t in tables},
        calibration={k: {t: calibration_of_all(test[t].labels, probability[t, k]) for t in tables} for k in kinds},
    )


def by_label(found: Results, probed: Probed) -> dict[str, Any]:
    """results.json: table -> probe -> label -> AUCs, measures and what cross-validation chose."""
    values: dict[str, Any] = {}
    for (table, kind), labels in probed.items():
        values.setdefault(table, {})[kind] = {
            label: {"auc": r.auc, "cv_auc": r.cv_auc, **found.measures[table][kind][label], **r.hyperparameters}
            for label, r in labels.items()
        }
    return values


def _delong(test: Aligned, first: Mapping[str, ProbeResult], second: Mapping[str, ProbeResult]) -> dict[str, float]:
    p = [delong(test.labels[label], first[label].scores, second[label].scores).p for label in first]
    return dict(zip(first, holm(p).tolist(), strict=True))

"""Measures of a probe's scores beside the AUC, and how well its probabilities are calibrated.

Shapes: N test rows.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import expit

from ray_ggsm.evaluation import metrics
from ray_ggsm.evaluation.config import Kind

MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "KS": metrics.ks,
    "average precision": metrics.average_precision,
    "log-loss": metrics.log_loss,
    "Brier score": metrics.brier,
}
"""Name -> function of labels (1, 0, NaN) and probabilities; of the last two, lower values are better."""


def probabilities(kind: Kind, scores_N: np.ndarray) -> np.ndarray:
    """Probabilities, (N,) float64, from the scores of LightGBM (probabilities) or another probe (log-odds)."""
    wide_N = scores_N.astype(np.float64)
    return wide_N if kind == "lightgbm" else expit(wide_N)


def measured(labels: Mapping[str, np.ndarray], probability: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Label -> measure -> value.

    Args:
        labels: label -> (N,) of 1, 0, NaN (left out).
        probability: label -> (N,).
    """
    return {
        label: {name: measure(labels_N, probability[label]) for name, measure in MEASURES.items()}
        for label, labels_N in labels.items()
    }


def calibration_of_all(
    labels: Mapping[str, np.ndarray], probability: Mapping[str, np.ndarray]
) -> list[tuple[float, float]]:
    """(mean predicted rate, observed rate) in ten bins of equal size over all labels together."""
    label_N, probability_N = (np.concatenate([values[name] for name in labels]) for values in (labels, probability))
    bins = metrics.calibration(label_N, probability_N)
    return [(float(predicted), float(observed)) for predicted, observed, _ in bins]

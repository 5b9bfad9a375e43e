"""What fewer dimensions and fewer bytes cost: linear probes on prefixes of the vectors, as files would hold them.

Legend: N rows, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.alignment import ProbeData
from ray_ggsm.evaluation.config import DimensionsConfig, ProbeConfig
from ray_ggsm.evaluation.cross_fitting import ProbeAll
from ray_ggsm.evaluation.metrics import MEAN, BootstrappedAuc, Estimate, bootstrap_aucs, paired_difference
from ray_ggsm.evaluation.results import RESAMPLES
from ray_ggsm.numerics import prefix

Precision = Literal["float32", "float16", "int8"]
"""How numbers are stored."""
PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "int8")
Store = Callable[[np.ndarray, Precision], tuple[np.ndarray, float]]
"""Vectors (N, D) as a reader gets them from a file of a precision, and the bytes that each takes there."""


@dataclass(frozen=True)
class Stored:
    """Vectors of some dimensions in one precision, and what a linear probe finds in them."""

    dimensions: int
    precision: Precision
    bytes: float
    """Bytes that a vector takes in a file; the other columns of its row not counted."""
    auc: Estimate
    """Mean AUC over the labels, on the test rows."""
    difference: Estimate
    """The same minus that of all dimensions in float32, paired."""


def check_prefixes(settings: DimensionsConfig, width: int) -> None:
    """Refuse prefixes that are no shorter than the vectors.

    Raises:
        InputError: one is not.
    """
    if settings.prefixes[-1] >= width:
        raise InputError(
            f"evaluation.dimensions.prefixes: {settings.prefixes[-1]} is no part of a vector of {width}; all "
            "dimensions are shown anyway, so give smaller numbers"
        )


def stored_aucs(
    config: ProbeConfig, settings: DimensionsConfig, seed: int, data: ProbeData, store: Store, probe_all: ProbeAll
) -> tuple[Stored, ...]:
    """Fit linear probes on every prefix in every precision; all dimensions in float32 come first.

    Raises:
        InputError: as `check_prefixes`.
    """
    width = data.fit.vectors.shape[1]
    check_prefixes(settings, width)
    linear, found = config.model_copy(update={"kinds": ("linear",)}), []
    whole: BootstrappedAuc | None = None
    for dimensions in (width, *reversed(settings.prefixes)):
        for precision in PRECISIONS:
            fit, _ = store(prefix(data.fit.vectors, dimensions), precision)
            score, size = store(prefix(data.score.vectors, dimensions), precision)
            rows = ProbeData(replace(data.fit, vectors=fit), replace(data.score, vectors=score))
            results = probe_all(linear, seed, {"stored": rows})["stored", "linear"]
            scores = {label: result.scores for label, result in results.items()}
            auc = bootstrap_aucs(data.score.labels, scores, data.score.users, RESAMPLES, seed)
            whole = whole or auc
            difference = paired_difference(auc, whole)[MEAN]
            found.append(Stored(dimensions, precision, size, auc.intervals()[MEAN], difference))
    return tuple(found)

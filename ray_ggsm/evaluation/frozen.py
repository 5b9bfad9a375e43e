"""What new vectors in an old space cost: probes that stay as they were fitted on old vectors, against retrained ones.

Shapes: N rows to fit on, M rows to score, D vector width.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ray_ggsm.config import Record
from ray_ggsm.evaluation import metrics
from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.cross_fitting import ProbeAll
from ray_ggsm.evaluation.metrics import MEAN, Estimate
from ray_ggsm.evaluation.results import Probed, results

MAPPED, RAW, RETRAINED, OLD = "mapped", "raw", "retrained", "old"
"""Names of results: frozen probes on mapped new vectors; on new vectors as they are; probes that were fitted on new
vectors; frozen probes on the old vectors."""


class MapCost(Record):
    """AUCs on the same test rows."""

    mapped: float
    """Of the frozen probe on mapped new vectors."""
    retrained: float
    """Of a probe that was fitted on new vectors."""
    old: float
    """Of the frozen probe on old vectors."""
    raw: float | None
    """Of the frozen probe on new vectors as they are; None: their width is another."""
    difference: Estimate
    """`mapped - retrained`, paired."""
    raw_difference: Estimate | None
    """`raw - retrained`, paired."""


def frozen(fit: Aligned, scored: Mapping[str, Aligned], config: ProbeConfig, seed: int, probe_all: ProbeAll) -> Probed:
    """Fit every probe once, and score the same rows with each of several vectors.

    Args:
        fit: rows to fit on.
        scored: name -> rows to score; all have the same rows, and vectors as wide as those of `fit`.
        config: settings of the probes.
        seed: of the probes.
        probe_all: fits probes.
    """
    first = next(iter(scored.values()))
    times, M = len(scored), len(first.users)
    together = Aligned(
        np.concatenate([each.vectors for each in scored.values()]),
        {label: np.tile(values_M, times) for label, values_M in first.labels.items()},
        np.tile(first.users, times),
        0,
    )
    found = probe_all(config, seed, {"": ProbeData(fit, together)})
    probed = {}
    for part, (name, rows) in enumerate(scored.items()):
        for kind in config.kinds:
            probed[name, kind] = {
                label: replace(
                    result,
                    scores=(scores_M := result.scores[part * M : (part + 1) * M]),
                    auc=metrics.auc(rows.labels[label], scores_M),
                )
                for label, result in found["", kind].items()
            }
    return probed


def map_costs(probed: Probed, test: Aligned, seed: int) -> dict[str, dict[str, MapCost]]:
    """Probe -> label, and "mean" -> what the map costs.

    Args:
        probed: results with the names of this module; RAW may be missing.
        test: the rows that were scored.
        seed: of the bootstrap.
    """
    names = [name for name in (RETRAINED, MAPPED, RAW, OLD) if any(name == each for each, _ in probed)]
    kinds = list(dict.fromkeys(kind for _, kind in probed))
    ordered = {(name, kind): probed[name, kind] for name in names for kind in kinds}
    found = results(ordered, dict.fromkeys(names, test), seed)  # retrained minus each of the others

    def cost(kind: str, label: str) -> MapCost:
        auc = {name: found.auc[name][kind][label].value for name in names}
        gap = {name: _negative(found.differences[name][kind][label]) for name in names[1:]}
        return MapCost(**{RAW: None} | auc, difference=gap[MAPPED], raw_difference=gap.get(RAW))

    return {kind: {label: cost(kind, label) for label in found.auc[MAPPED][kind]} for kind in kinds}


def most_lost(costs: Mapping[str, Mapping[str, MapCost]]) -> float:
    """The largest loss of mean AUC of any probe that the 95 % interval allows, mapped against retrained."""
    return max(-labels[MEAN].difference.low for labels in costs.values())


def _negative(gap: Estimate) -> Estimate:
    return Estimate(-gap.value, -gap.high, -gap.low)

"""Frozen probes: fitted once, and scoring several kinds of vectors of the same rows."""

from collections.abc import Mapping

import numpy as np
import pytest

from ray_ggsm.evaluation.alignment import Aligned, ProbeData
from ray_ggsm.evaluation.config import ProbeConfig
from ray_ggsm.evaluation.frozen import MAPPED, OLD, RAW, RETRAINED, frozen, map_costs, most_lost
from ray_ggsm.evaluation.metrics import MEAN
from ray_ggsm.evaluation.probes import fit_and_score
from ray_ggsm.evaluation.results import Probed
from tests.helpers.probes import CONFIG, planted

LINEAR = CONFIG.model_copy(update={"kinds": ("linear",)})


def probe_all(config: ProbeConfig, seed: int, vectors: Mapping[str, ProbeData]) -> Probed:
    """As the real one, without Ray."""
    return {
        (name, kind): {
            label: fit_and_score(
                kind, d.fit.vectors, d.fit.labels[label], d.fit.users, d.score.vectors, d.score.labels[label], config,
                seed, label=label,
            )
            for label in d.fit.labels
        }
        for name, d in vectors.items() for kind in config.kinds
    }  # fmt: skip


def aligned(seed: int, rows: int = 400) -> Aligned:
    vectors, labels, users = planted(rows, seed=seed)
    odd = labels.copy()
    odd[::7] = np.nan
    return Aligned(vectors, {"buys": labels, "odd": odd}, users, 0)


def moved(rows: Aligned, vectors: np.ndarray) -> Aligned:
    return Aligned(vectors.astype(np.float32), rows.labels, rows.users, 0)


def test_a_probe_that_scores_several_vectors_is_one_probe() -> None:
    fit, score = aligned(0), aligned(1)
    noisy = moved(score, score.vectors + np.random.default_rng(2).normal(size=score.vectors.shape))
    found = frozen(fit, {MAPPED: noisy, RAW: score}, LINEAR, 0, probe_all)
    for name, rows in ((MAPPED, noisy), (RAW, score)):
        alone = probe_all(LINEAR, 0, {name: ProbeData(fit, rows)})[name, "linear"]
        for label, result in found[name, "linear"].items():
            np.testing.assert_array_equal(result.scores, alone[label].scores)
            assert (result.auc, result.cv_auc) == (alone[label].auc, alone[label].cv_auc)


def test_what_a_map_costs() -> None:
    """Mapped vectors that are those of before lose nothing; reversed ones lose all, and more."""
    fit, score = aligned(0), aligned(1)
    probed = {
        **frozen(fit, {MAPPED: score, RAW: moved(score, -score.vectors), OLD: score}, LINEAR, 0, probe_all),
        (RETRAINED, "linear"): probe_all(LINEAR, 0, {"new": ProbeData(fit, score)})["new", "linear"],
    }
    costs = map_costs(probed, score, 0)
    assert list(costs["linear"]) == ["buys", "odd", MEAN]
    mean = costs["linear"][MEAN]
    assert mean.mapped == mean.old == mean.retrained
    assert (mean.difference.low, mean.difference.value, mean.difference.high) == (0, 0, 0)
    assert mean.raw == pytest.approx(1 - mean.mapped)
    assert mean.raw_difference.high < 0
    assert mean.raw_difference.value == pytest.approx(mean.raw - mean.retrained)
    assert most_lost(costs) == 0
    del probed[RAW, "linear"]
    assert map_costs(probed, score, 0)["linear"]["buys"].raw is None

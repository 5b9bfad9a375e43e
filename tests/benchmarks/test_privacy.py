"""The script's own AUC is that of the privacy card."""

import pytest

from benchmarks.privacy import STRENGTH, independent_auc
from ray_ggsm.evaluation.config import LinearConfig, ProbeConfig
from ray_ggsm.evaluation.privacy import TRAINED, membership
from tests.evaluation.test_privacy import groups, probe_all, shifted


@pytest.mark.parametrize("by", [0.0, 0.3])
def test_the_card_is_recomputed_without_its_probes(by: float) -> None:
    rows = shifted(groups(7), by)
    config = ProbeConfig(folds=2, linear=LinearConfig(strengths=(STRENGTH,), tolerance=1e-8))
    found = membership(config, 0, rows, groups(7), probe_all).attacks["vectors"].encoder
    own = independent_auc(rows.users, rows.vectors, rows.labels[TRAINED], STRENGTH)
    assert own == pytest.approx(found.value, abs=1e-4)

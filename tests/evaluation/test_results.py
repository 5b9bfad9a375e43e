import numpy as np
import pytest

from ray_ggsm.evaluation.alignment import Aligned
from ray_ggsm.evaluation.comparison import delong, holm
from ray_ggsm.evaluation.probes import ProbeResult
from ray_ggsm.evaluation.results import by_label, mean_aucs, results
from tests.helpers.probes import N, made_up_labels


def test_results_are_those_of_their_parts() -> None:
    labels = made_up_labels()
    draw = np.random.default_rng(4)
    test = Aligned(np.zeros((N, 1), np.float32), labels, np.arange(N).astype(str), 0)

    def probed(strength: float) -> dict[str, ProbeResult]:
        scores = {name: draw.normal(size=N) + strength * np.nan_to_num(y) for name, y in labels.items()}
        return {name: ProbeResult(s.astype(np.float32), 0.5, 0.5, {"C": 1.0}) for name, s in scores.items()}

    both = {("encoder", "linear"): probed(1.0), ("other", "linear"): probed(0.2)}
    found = results(both, {"encoder": test, "other": test}, seed=0)
    p = [delong(labels[n], both["encoder", "linear"][n].scores, both["other", "linear"][n].scores).p for n in labels]
    assert list(found.delong["other"]["linear"].values()) == pytest.approx(holm(p))
    auc = found.auc["encoder"]["linear"], found.auc["other"]["linear"], found.differences["other"]["linear"]
    for name in (*labels, "mean"):
        assert auc[0][name].value - auc[1][name].value == pytest.approx(auc[2][name].value)
    each = found.measures["other"]["linear"]
    mean = found.mean_measures()["other"]["linear"]["KS"]
    assert mean == pytest.approx((each["a"]["KS"] + each["b"]["KS"]) / 2)
    written = by_label(found, both)["other"]["linear"]["a"]
    assert written["C"] == 1.0
    assert (written["auc_low"], written["auc_high"]) == (auc[1]["a"].low, auc[1]["a"].high)
    whole = mean_aucs(found)["encoder"]["linear"]
    assert whole == {"auc": auc[0]["mean"].value, "auc_low": auc[0]["mean"].low, "auc_high": auc[0]["mean"].high}

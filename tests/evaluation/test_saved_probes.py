"""Probes that are saved are the probes that scored."""

from pathlib import Path

import numpy as np
import pytest

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.linear_probe import LinearProbe
from ray_ggsm.evaluation.saved_probes import ProbedVectors, load_probe, save_probes
from tests.helpers.probes import planted, run

VECTORS = ProbedVectors(encoder="e", instruction="", mask="trained")


@pytest.fixture
def saved(tmp_path: Path):
    found = {kind: {"buys": run(kind, planted(), planted(seed=1))} for kind in ("linear", "lightgbm", "mlp")}
    save_probes(found, VECTORS, 5, str(tmp_path))
    return found, tmp_path


def test_saved_probes_give_the_scores_of_the_evaluation_to_the_bit(saved) -> None:
    found, place = saved
    for kind in ("linear", "lightgbm"):
        read = load_probe(str(place), "buys", kind)
        scores = read.probe.scores(planted(seed=1)[0]).astype(np.float32)
        np.testing.assert_array_equal(scores, found[kind]["buys"].scores)
        assert (read.description.auc, read.description.vectors) == (found[kind]["buys"].auc, VECTORS)
    assert sorted(file.name for file in (place / "buys").iterdir()) == [
        "lightgbm.json", "lightgbm.txt", "linear.json", "linear.safetensors",
    ]  # fmt: skip


def test_a_linear_probe_is_its_formula(saved) -> None:
    found, place = saved
    probe = load_probe(str(place), "buys", "linear").probe
    assert isinstance(probe, LinearProbe)
    vectors = planted(seed=1)[0].astype(np.float64)
    by_hand = [
        sum(
            float(w) * (np.sign(x) * np.log(1 + abs(x)) - m) / s
            for x, m, s, w in zip(row, probe.mean_D, probe.scale_D, probe.weight_1D[0], strict=True)
        )
        + float(probe.bias_1[0])
        for row in vectors
    ]
    np.testing.assert_allclose(found["linear"]["buys"].scores, by_hand, atol=1e-5)


def test_probes_that_are_missing_or_changed_are_refused(saved) -> None:
    _, place = saved
    with pytest.raises(InputError, match=r"there is no linear probe of 'flies' here \(flies/linear.json is missing\)"):
        load_probe(str(place), "flies", "linear")
    with pytest.raises(InputError, match=r"there is no mlp probe of 'buys' here"):
        load_probe(str(place), "buys", "mlp")
    file = place / "buys" / "linear.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"linear.safetensors was changed since it was saved"):
        load_probe(str(place), "buys", "linear")
    file.unlink()
    with pytest.raises(InputError, match=r"linear.safetensors is missing"):
        load_probe(str(place), "buys", "linear")
    (place / "buys" / "lightgbm.json").write_text("{")
    with pytest.raises(InputError, match=r"lightgbm.json is damaged, or "):
        load_probe(str(place), "buys", "lightgbm")

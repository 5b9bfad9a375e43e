"""What the sigmoid of GG-SM takes, against definitions written out in float64."""

import math
from statistics import NormalDist

import pytest
import torch

from ray_ggsm.masks.calibration import calibrated

NORMS = torch.tensor([0.02, 0.0, 0.5, 0.03, 0.01])
SEEN = torch.tensor([True, False, True, True, True])


def test_zscores_are_taken_over_the_slots_that_were_seen() -> None:
    seen = [0.02, 0.5, 0.03, 0.01]
    mean = sum(seen) / 4
    deviation = math.sqrt(sum((g - mean) ** 2 for g in seen) / 4)
    expected = [(g - mean) / deviation for g in seen]
    scores_S = calibrated(NORMS, SEEN, "zscore")
    assert scores_S[SEEN].tolist() == pytest.approx(expected, rel=1e-5)
    assert scores_S[1] == 0


def test_ranks_become_normal_scores() -> None:
    expected = [NormalDist().inv_cdf((rank + 0.5) / 4) for rank in (1, 3, 2, 0)]
    scores_S = calibrated(NORMS, SEEN, "rank")
    assert scores_S[SEEN].tolist() == pytest.approx(expected, abs=1e-6)
    assert scores_S[1] == 0


def test_the_published_form_takes_the_norms_as_they_are() -> None:
    assert torch.equal(calibrated(NORMS, SEEN, "none"), NORMS)


@pytest.mark.parametrize("method", ["none", "zscore", "rank"])
def test_without_gradients_or_without_differences_every_slot_gets_zero(method) -> None:
    nothing = torch.zeros(3)
    assert torch.equal(calibrated(nothing, torch.zeros(3, dtype=torch.bool), method), nothing)
    if method == "zscore":
        same = torch.full((4,), 0.25)
        assert torch.equal(calibrated(same, torch.ones(4, dtype=torch.bool), method), torch.zeros(4))

"""CoLES against a loop over all pairs, and its slices."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ray_ggsm.encoders.coles import Coles, contrast, draw_slices
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.kinds import ColesConfig
from ray_ggsm.training.workers import ALONE


def by_hand(e: np.ndarray, users: list[int], margin: float, hard: int) -> float:
    """The loss, pair by pair."""
    total, pairs = 0.0, 0
    for i in range(len(e)):
        distances = {j: float(np.linalg.norm(e[i] - e[j])) for j in range(len(e)) if j != i}
        for j, d in distances.items():
            if users[j] == users[i] and i < j:
                total, pairs = total + d**2, pairs + 1
        for d in sorted(d for j, d in distances.items() if users[j] != users[i])[:hard]:
            total, pairs = total + max(0, margin - d) ** 2, pairs + 1
    return total / pairs


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    e = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(e, dim=1)


@pytest.mark.parametrize(("margin", "hard"), [(0.5, 5), (1.5, 3), (0.9, 100)])
def test_the_loss_against_all_pairs(margin: float, hard: int) -> None:
    e, users = unit(15, 3, 0), [0, 0, 0, 1, 1, 2, 2, 2, 2, 0, 3, 4, 4, 1, 5]
    found = contrast(e, torch.tensor(users), margin, hard).item()
    assert found == pytest.approx(by_hand(e.numpy(), users, margin, hard), rel=1e-6)


def test_equal_slices_far_from_others_cost_nothing() -> None:
    e = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = contrast(e, torch.tensor([0, 0, 1, 1]), 0.5, 5)
    assert loss.item() == 0
    loss.backward()
    assert torch.isfinite(e.grad).all()


def test_one_user_has_no_negatives() -> None:
    e = unit(4, 3, 1)
    assert contrast(e, torch.zeros(4), 0.5, 5).item() == pytest.approx(by_hand(e.numpy(), [0] * 4, 0.5, 5))


def test_slices_lie_in_their_rows_and_have_every_length() -> None:
    length_B = torch.tensor([1, 4, 5, 30, 200])
    first, length = draw_slices(length_B, 2000, 5, 100, ALONE, seed=3)
    assert (first >= 0).all()
    assert (first + length <= length_B[:, None]).all()
    assert length[0].unique().tolist() == [1]
    assert length[2].unique().tolist() == [5]
    lengths, count = length[3].unique(return_counts=True)
    assert lengths.tolist() == list(range(5, 31)), "no more whole rows than others"
    assert count.max() < 2 * 2000 / 26
    assert length[4].unique().tolist() == list(range(5, 101))
    assert (first[4] + length[4]).max() == 200
    assert first[4].min() == 0
    again = draw_slices(length_B, 2000, 5, 100, ALONE, seed=3)
    assert torch.equal(first, again[0])
    assert torch.equal(length, again[1])


def test_the_nested_loss_is_the_mean_over_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    e_SC, users = unit(12, 6, 4), torch.arange(12) // 3
    config = ColesConfig(kind="coles", event_encoder=EventEncoderConfig(name="e"), state=6, slices=3, least=2)
    lost = Coles(config, (), 4)
    monkeypatch.setattr(lost, "_after", lambda *_: e_SC)
    lost.input = torch.nn.Identity()
    monkeypatch.setattr(lost.input, "forward", lambda _: torch.zeros(4, 3, 128))
    history = SimpleNamespace(length_B=torch.full((4,), 3), user_B=users[::3])
    for nested in ((), (2, 4)):
        lost.nested = nested
        slices = [e_SC[:, :n].double().numpy() for n in (*nested, 6)]
        expected = [by_hand(e / np.linalg.norm(e, axis=1, keepdims=True), users.tolist(), 0.5, 5) for e in slices]
        assert lost.loss(history, ALONE, 0)[0].item() == pytest.approx(np.mean(expected), rel=1e-5)

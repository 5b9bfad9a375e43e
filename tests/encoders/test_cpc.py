"""CPC against a loop in NumPy, its closed form, and what it may not see."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.encoders.cpc import Cpc, draw_negatives
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.kinds import CpcConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))
CONFIG = CpcConfig(
    kind="cpc", event_encoder=EventEncoderConfig(name="unused"), newest=9, width=6, state=8, ahead=3, negatives=5
)


def model(**changes) -> Cpc:
    torch.manual_seed(0)
    return Cpc(CONFIG.model_copy(update=changes), MODALITIES, WIDTH)


def reader() -> StreamReader:
    return StreamReader(MODALITIES, CONFIG.newest, lookup)


def rows_of_users(users: Sequence[str]) -> pa.Table:
    rows = user_rows(len(users), seed=4)
    return rows.set_column(0, "user_id", pa.array(users))


def test_predictors_that_say_nothing_cost_the_logarithm_of_the_choices() -> None:
    cpc = model(negatives=40)
    for predict in cpc.heads:
        torch.nn.init.zeros_(predict.weight)
    loss, _ = cpc.loss(reader().batch(user_rows(8)), ALONE, 0)
    assert loss.item() == pytest.approx(math.log(41), rel=1e-6)


def test_the_loss_against_a_loop() -> None:
    cpc, rows = model(), user_rows(8)
    batch = reader().batch(rows)
    loss, metrics = cpc.loss(batch, ALONE, seed=3)
    with torch.no_grad():
        state = cpc.gru(cpc.input(batch))[0].double().numpy()
        content = cpc.input.placed(batch, cpc.input.events(batch, torch.zeros_like(batch.age_E))).double().numpy()
    count_B, L = batch.count_B.numpy(), batch.event_BL.shape[1]
    negatives = draw_negatives(batch.count_B, batch.user_B, L, CONFIG.negatives, 3).numpy()
    losses, margins = [], []
    for b in range(len(rows)):
        for k in range(1, CONFIG.ahead + 1):
            weight = cpc.heads[k - 1].weight.detach().double().numpy()
            for t in range(count_B[b] - k):
                guess = weight @ state[b, t]
                positive = guess @ content[b, t + k]
                others = [guess @ content[i // L, i % L] for i in negatives[b]]
                losses.append(-positive + np.log(np.exp([positive, *others]).sum()))
                margins.append(positive - max(others))
    assert len(losses) > 20
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    # equal contents may be on both sides: such ties are decided by rounding
    assert np.mean(np.array(margins) > 1e-5) <= metrics["accuracy"] + 1e-6
    assert np.mean(np.array(margins) > -1e-5) >= metrics["accuracy"] - 1e-6


def test_negatives_are_events_of_other_users_drawn_evenly() -> None:
    """Snapshots of one user are never negatives of each other, and padding never is one."""
    users = ["a", "b", "a", "c", "nobody", "b"]
    count_B = torch.tensor([3, 0, 2, 4, 0, 1])
    user_B = torch.tensor([hash(user) for user in users])
    drawn = draw_negatives(count_B, user_B, 5, 4000, seed=1).numpy()
    for b, user in enumerate(users):
        allowed = [r * 5 + t for r, other in enumerate(users) if other != user for t in range(int(count_B[r]))]
        found, times = np.unique(drawn[b], return_counts=True)
        assert found.tolist() == allowed
        assert times.min() > 0.7 * times.max()
    again = draw_negatives(count_B, user_B, 5, 4000, seed=1).numpy()
    assert np.array_equal(drawn, again)
    assert not np.array_equal(drawn, draw_negatives(count_B, user_B, 5, 4000, seed=2).numpy())


def test_nobody_else_has_an_event() -> None:
    batch = reader().batch(rows_of_users(["a", "a", "a"]))
    loss, _ = model().loss(batch, ALONE, 0)
    assert math.isfinite(loss.item())


def test_a_state_sees_nothing_after_its_event() -> None:
    cpc, rows = model(), user_rows(6, seed=2)
    batch = reader().batch(rows)
    states = cpc.gru(cpc.input(batch))[0]
    longest = int(batch.length_B.argmax())
    cut = int(batch.length_B[longest]) - 2
    ages = batch.age_E.clone()
    ages[batch.event_BL[longest, cut:]] = 0.5
    later = type(batch)(**{**vars(batch), "age_E": ages})
    changed = cpc.gru(cpc.input(later))[0]
    assert torch.equal(states[longest, :cut], changed[longest, :cut])
    assert not torch.equal(states[longest, cut:], changed[longest, cut:])


def test_an_age_does_not_tell_positives_from_negatives() -> None:
    """What is predicted does not say when it was."""
    cpc, batch = model(), reader().batch(user_rows(6))
    other = type(batch)(**{**vars(batch), "age_E": batch.age_E * 0.5})
    contents = [cpc.input.events(b, torch.zeros_like(b.age_E)) for b in (batch, other)]
    assert torch.equal(*contents)

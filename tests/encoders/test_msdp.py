"""MSDP: what it predicts is what a plain count finds, and its two losses have the values that closed forms give."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.encoders.msdp import Msdp, cosine
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.kinds import MsdpConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))
READER = StreamReader(MODALITIES, 9, lookup)
DAYS = 80


def model(rows: pa.Table, **changes) -> Msdp:
    torch.manual_seed(0)
    values = {"behaviours": 4, "heads": 2, "newest": 9, "width": 6, **changes}
    made = Msdp(MsdpConfig(kind="msdp", event_encoder=EventEncoderConfig(name="unused"), **values), MODALITIES, WIDTH)
    made.prepare(READER, rows, DAYS, 0)
    return made


def test_distributions_against_a_recount() -> None:
    rows = user_rows(25, seed=3)
    msdp = model(rows, clustered_events=30)
    days = torch.tensor([[1.0, 20.0, 80.0]] * len(rows))
    found = msdp.distribution(READER.future(rows), days).numpy()
    centres = msdp.centre_KH.numpy()
    empty = 0
    for b, row in enumerate(rows.to_pylist()):
        for j, window in enumerate(days[b].tolist()):
            counts = np.zeros(5)
            for event in row["future"]:
                if 0 < (event["time"] - row["as_of"]).total_seconds() / 86400 <= window:
                    vector = lookup(pa.array([event["text"]]))[0]
                    counts[np.linalg.norm(centres - vector, axis=1).argmin()] += 1
            if not counts.any():
                counts[4], empty = 1, empty + 1
            np.testing.assert_allclose(found[b, j], counts / counts.sum(), atol=1e-6)
    assert empty > 3


def test_the_loss_is_least_where_the_prediction_is_the_distribution() -> None:
    """It is then the entropy of the distribution; predictions that say nothing cost ln(K + 1)."""
    rows = user_rows(12, seed=1)
    msdp = model(rows, alike_weight=0.0)
    torch.nn.init.zeros_(msdp.behaviours.weight)
    torch.nn.init.zeros_(msdp.behaviours.bias)
    batch = msdp.training_batch(READER, rows, 0)
    assert msdp.loss(batch, ALONE, 0)[0].item() == pytest.approx(math.log(5), rel=1e-6)
    p = torch.tensor([0.5, 0.2, 0.2, 0.1, 0.0])
    msdp.distribution = lambda future, days_bJ: p.expand(*days_bJ.shape, 5)
    with torch.no_grad():
        msdp.behaviours.bias.copy_(p.clamp(min=1e-12).log())
    entropy = -(p[:4] * p[:4].log()).sum().item()
    assert msdp.loss(batch, ALONE, 0)[0].item() == pytest.approx(entropy, rel=1e-5)
    with torch.no_grad():
        msdp.behaviours.bias.add_(torch.tensor([0.3, 0, 0, 0, 0]))
    assert msdp.loss(batch, ALONE, 0)[0].item() > entropy + 1e-3


def test_without_masks_and_with_an_identity_both_sides_are_the_same() -> None:
    rows = user_rows(12, seed=1)
    msdp = model(rows, masked_share=0.0, alike_weight=0.7)
    msdp.predictor = torch.nn.Identity()
    loss, metrics = msdp.loss(msdp.training_batch(READER, rows, 0), ALONE, 0)
    assert loss.item() - metrics["loss_behaviours"] == pytest.approx(-0.7, rel=1e-5)
    assert metrics["cos_masked"] == pytest.approx(1, rel=1e-5)


def test_no_gradient_goes_through_the_stopped_side() -> None:
    guess, state = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    cosine(guess, state).sum().backward()
    assert guess.grad is not None
    assert state.grad is None


def test_fewer_contents_than_behaviours() -> None:
    rows = user_rows(12, seed=1)
    msdp = model(rows, behaviours=5000)
    loss, _ = msdp.loss(msdp.training_batch(READER, rows, 0), ALONE, 0)
    assert math.isfinite(loss.item())


def test_other_windows_give_other_vectors() -> None:
    rows = user_rows(12, seed=1)
    msdp = model(rows, windows_days=(1, 80))
    states = msdp.states(READER.batch(rows))
    assert states.shape == (12, 12)
    assert (states[:, :6] - states[:, 6:]).abs().max() > 1e-4
    only = model(rows)
    torch.testing.assert_close(only.states(READER.batch(rows)), states[:, 6:])


def test_windows_of_a_row_do_not_see_each_other() -> None:
    """Five at once give what each gives alone, for rows of all lengths."""
    rows = user_rows(12, seed=1)
    together, days = model(rows, windows_days=(1, 3, 10, 40, 80)), (1, 3, 10, 40, 80)
    states = together.states(READER.batch(rows)).unflatten(1, (5, -1))
    for j, day in enumerate(days):
        alone = model(rows, windows_days=(day,)).states(READER.batch(rows))
        torch.testing.assert_close(states[:, j], alone, rtol=1e-5, atol=1e-6)


def test_behaviours_begin_with_base_rates() -> None:
    """Of windows of a day, a quarter, a half, three quarters and all of the future, recounted."""
    rows = user_rows(25, seed=3)
    msdp = model(rows)
    days = torch.tensor([1, DAYS * 0.25 + 0.75, DAYS / 2 + 0.5, DAYS * 0.75 + 0.25, DAYS]).round()
    share = msdp.distribution(READER.future(rows), days.expand(len(rows), 5)).double().sum(dim=(0, 1)).numpy() + 0.5
    np.testing.assert_allclose(msdp.behaviours.bias.detach().numpy(), np.log(share / share.sum()), rtol=1e-5)

"""One4all: what its questions cost, what hidden events tell, and the calendar."""

import datetime as dt
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.encoders.one4all import One4all, calendar
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.kinds import One4allConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))
READER = StreamReader(MODALITIES, 9, lookup)


def model(rows: pa.Table, **changes) -> One4all:
    torch.manual_seed(0)
    values = {"codebooks": (2, 5, 9), "heads": 2, "newest": 9, "width": 6, **changes}
    config = One4allConfig(kind="one4all", event_encoder=EventEncoderConfig(name="unused"), **values)
    made = One4all(config, MODALITIES, WIDTH)
    made.prepare(READER, rows, 80, 0)
    return made


def test_questions_that_nothing_is_known_about_cost_the_logarithms_of_their_classes() -> None:
    rows = user_rows(30)
    one4all = model(rows)
    for question in one4all.questions:
        torch.nn.init.zeros_(question.weight)
        torch.nn.init.zeros_(question.bias)
    loss, metrics = one4all.loss(one4all.training_batch(READER, rows, 0), ALONE, 0)
    classes = [2, 2, 5, 9, 20, 12, 31, 7, 24]
    assert loss.item() == pytest.approx(sum(map(math.log, classes)) / 9, rel=1e-5)
    assert metrics["loss_weekday"] == pytest.approx(math.log(7), rel=1e-5)


def test_a_hidden_event_tells_nothing_of_itself() -> None:
    """Its text, age and amount change none of its logits."""
    rows = user_rows(1, seed=5)
    one4all, batch = model(user_rows(30)), READER.batch(rows)
    assert batch.count_B.item() > 3
    event = batch.event_BL[0, 2]
    age_E, amount_E = batch.age_E.clone(), batch.amount_E.clone()
    age_E[event], amount_E[event] = 77.0, 1e4
    other = replace(batch, age_E=age_E, amount_E=amount_E)
    hidden_BL = torch.zeros_like(batch.event_BL, dtype=torch.bool)
    hidden_BL[0, 2] = True
    seen = []
    for each in (batch, other):
        x_BLD = torch.where(hidden_BL[:, :, None], one4all.hidden_D, one4all.input(each))
        seen.append(one4all._through(x_BLD, each)[0, 2])
    assert torch.equal(*seen)
    assert not torch.equal(one4all.input(batch)[0, 2], one4all.input(other)[0, 2])


def test_answers_against_the_rows() -> None:
    rows = user_rows(20, seed=3)
    one4all = model(rows)
    batch = one4all.training_batch(READER, rows, 0)
    found = one4all.answers(batch, torch.arange(len(batch.history.age_E)))
    expected = []
    for m, modality in enumerate(MODALITIES):
        for row in rows.to_pylist():
            for event in row[modality.name][-modality.keep :]:
                time = event["time"]
                codes = []
                for i in range(3):
                    book = one4all.get_buffer(f"codebook{i}_CH").numpy()
                    known = book[np.isfinite(book).all(axis=1)]
                    codes.append(int(np.linalg.norm(known - lookup(pa.array([event["text"]])), axis=1).argmin()))
                year = time.year - int(one4all.years_2[0])
                expected.append([m, *codes, year, time.month - 1, time.day - 1, time.weekday(), time.hour])
    kept = (batch.history.event_BL[batch.history.event_BL < len(expected)]).tolist()
    assert len(kept) > 50
    assert found[kept].tolist() == [expected[e] for e in kept]


@pytest.mark.parametrize("moment", ["1970-01-01T00:00", "2024-02-29T23:59", "1969-12-31T23:00", "2025-12-31T12:30"])
def test_the_calendar(moment: str) -> None:
    time = dt.datetime.fromisoformat(moment)
    days = (time - dt.datetime(1970, 1, 1)).total_seconds() / 86400
    expected = [time.year, time.month - 1, time.day - 1, time.weekday(), time.hour]
    assert calendar(np.array([days])).tolist() == [expected]


def test_one_year_is_no_question() -> None:
    rows = user_rows(30)
    one4all = model(rows, most_years=1)
    _, metrics = one4all.loss(one4all.training_batch(READER, rows, 0), ALONE, 0)
    assert metrics["loss_year"] == 0


def test_questions_begin_with_base_rates() -> None:
    """Counted row by row from the events that are read; classes that never occur have half a row."""
    rows = user_rows(25, seed=2)
    one4all = model(rows, clustered_events=30)
    hours = []
    for row in rows.to_pylist():
        kept = [(e["time"], -m) for m, each in enumerate(MODALITIES) for e in row[each.name][-each.keep :]]
        hours += [(time + dt.timedelta(seconds=30)).hour for time, _ in sorted(kept)[-9:]]  # to the minute
    batch = one4all.training_batch(READER, rows, 0).history
    read = batch.event_BL[batch.event_BL < len(batch.age_E)]
    assert len(read) < len(batch.age_E), "some events are older than the newest nine"
    count = np.bincount(hours, minlength=24)
    assert count.sum() == len(read)
    expected = np.log((count + 0.5) / (count.sum() + 12))
    np.testing.assert_allclose(one4all.questions[-1].bias.detach().numpy(), expected, rtol=1e-5)


def test_a_share_of_the_asked_events_stays_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their states, of which vectors are made, get gradients of their own; the others are hidden."""
    rows = user_rows(60)
    seen = {}
    for share in (0.0, 0.5):
        one4all = model(rows, masked_share=0.5, visible_share=share)
        through = one4all._through

        def watched(x_BLD, batch, through=through, one4all=one4all, share=share):
            seen[share] = (x_BLD == one4all.hidden_D).all(dim=2)
            return through(x_BLD, batch)

        monkeypatch.setattr(one4all, "_through", watched)
        _, metrics = one4all.loss(one4all.training_batch(READER, rows, 0), ALONE, 0)
        assert math.isfinite(metrics["loss"])
    assert 0.4 < seen[0.5].sum() / seen[0.0].sum() < 0.6
    assert not (seen[0.5] & ~seen[0.0]).any()

"""FOUND: its closed forms, its fusion, its windows, and its sentences."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.found import Found, FoundBatch, Sentences, alike, draw_windows, sentences
from ray_ggsm.encoders.kinds import Inputs, Run, load, new_learner
from ray_ggsm.encoders.small_model import SmallEncoder
from ray_ggsm.encoders.stream import StreamReader
from ray_ggsm.model.config import EventEncoderConfig
from ray_ggsm.model.contents import Lookup
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_encoder import EventEncoder
from ray_ggsm.model.kinds import FoundConfig
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.pretrained import pack
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.learner import Learner
from ray_ggsm.training.loss import Objective, gathered, info_nce
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import WIDTH, lookup
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))
READER = StreamReader(MODALITIES, 9, lookup)


def model(event_encoder: str = "unused", width: int = WIDTH, **settings: float) -> Found:
    torch.manual_seed(0)
    config = FoundConfig(
        kind="found", event_encoder=EventEncoderConfig(name=event_encoder, dtype="float32"), newest=9, width=6,
        state=8, **settings,
    )  # fmt: skip
    return Found(config, MODALITIES, width, 7).eval()


def test_fusion_weights_sum_to_one_and_what_is_absent_has_none() -> None:
    rows = user_rows(6)
    empty = pa.array([[]] * 6, rows.schema.field("app").type)
    rows = rows.set_column(rows.column_names.index("app"), "app", empty)
    found, batch = model(), READER.batch(rows)
    slot_BSC, there_BS = found.slots(found.input(batch), batch, batch.valid_BL, with_features=True)
    weight_BS = found.weights(slot_BSC, there_BS)
    torch.testing.assert_close(weight_BS.sum(dim=1), torch.ones(6))
    assert slot_BSC.shape[1] == 4  # bill, app, features, nothing
    assert (weight_BS[:, 1] == 0).all()
    assert (weight_BS[:, 3] == 0).all()
    assert (weight_BS[:, [0, 2]] > 0).all()


def test_a_window_without_events_is_nothing() -> None:
    found, batch = model(), READER.batch(user_rows(4))
    e_BC = found.fused(found.input(batch), batch, torch.zeros_like(batch.valid_BL), with_features=False)
    torch.testing.assert_close(e_BC, found.nothing_C.expand(4, -1))


def test_a_modalitys_state_is_that_of_its_events_in_their_order() -> None:
    """Against each GRU run over one row's events of one modality, picked by hand."""
    found, batch = model(), READER.batch(user_rows(5, seed=2))
    x_BLD = found.input(batch)
    slot_BSC, there_BS = found.slots(x_BLD, batch, batch.valid_BL, with_features=False)
    for b in range(5):
        events = [int(e) for e in batch.event_BL[b] if e < len(batch.age_E)]
        for m, gru in enumerate(found.grus):
            mine = [i for i, e in enumerate(events) if batch.modality_E[e] == m]
            assert bool(there_BS[b, m]) == bool(mine)
            if mine:
                torch.testing.assert_close(slot_BSC[b, m], gru(x_BLD[b, mine][None])[0][0, -1])


def test_windows_lie_in_the_history_and_are_long_enough() -> None:
    share_B2 = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    from_B, to_B = draw_windows(share_B2, 30.0, 90.0)
    assert (from_B >= 0).all()
    assert (to_B <= 90 + 1e-4).all()
    assert ((to_B - from_B) >= 30 - 1e-4).all()
    assert ((to_B - from_B).max() - (to_B - from_B).min()) > 50
    from_B, to_B = draw_windows(share_B2, 30.0, 20.0)
    torch.testing.assert_close(from_B, torch.zeros(500))
    torch.testing.assert_close(to_B, torch.full((500,), 20.0))


def test_equal_vectors_are_alike_and_others_diverge_as_in_numpy() -> None:
    e1_BC, e2_BC = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    assert alike(e1_BC, e1_BC).item() == pytest.approx(0, abs=1e-7)
    p, q = (np.exp(e.numpy().astype(np.float64)) for e in (e1_BC, e2_BC))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    expected = ((p * np.log(p / q)).sum(axis=1) + (q * np.log(q / p)).sum(axis=1)).mean() / 2
    assert alike(e1_BC, e2_BC).item() == pytest.approx(expected, rel=1e-5)


def test_windows_that_hold_everything_leave_only_the_contrast() -> None:
    """Both windows are the whole history, so the divergence is 0."""
    rows, found = user_rows(8), model(first_stage=1.0, window_days=1000)
    found.prepare(READER, rows, 80, 0)
    _, metrics = found.loss(found.training_batch(READER, rows, 0), ALONE, 0)
    assert metrics["divergence"] == pytest.approx(0, abs=1e-7)
    assert metrics["accuracy"] == 1


def test_rows_with_an_empty_window_are_neither_positives_nor_negatives() -> None:
    """Without events two users' windows are the same vector: they once were pushed apart, and towards nothing."""
    rows, found = user_rows(40), model(first_stage=1.0, window_days=0.5)
    found.prepare(READER, rows, 80, 0)
    batch = found.training_batch(READER, rows, 0)
    e1_BC, e2_BC, both_B = found._windows(batch.history, ALONE, 0)
    nothing_B = ((e1_BC - found.nothing_C).abs().amax(dim=1) < 1e-6) | (
        (e2_BC - found.nothing_C).abs().amax(dim=1) < 1e-6
    )
    assert 0 < int(both_B.sum()) < 40
    assert torch.equal(~both_B, nothing_B)
    loss, metrics = found.loss(batch, ALONE, 0)
    kept = [e[both_B].detach().double().numpy() for e in (e1_BC, e2_BC)]
    e, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in kept)
    logits = e @ other.T / found.config.temperature
    user_B = batch.history.user_B[both_B].numpy()
    logits[(user_B[:, None] == user_B) & ~np.eye(len(e), dtype=bool)] = -np.inf
    contrast = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    divergence = alike(e1_BC[both_B], e2_BC[both_B]).item()
    assert loss.item() == pytest.approx(contrast + found.config.divergence_weight * divergence, rel=1e-4)
    assert metrics["windows_empty"] == pytest.approx(1 - both_B.float().mean().item())


def told_as(id_B: torch.Tensor) -> Sentences:
    return Sentences(torch.randn(len(id_B), WIDTH), id_B, torch.zeros(len(id_B), dtype=torch.bool))


def test_equal_similarities_cost_the_logarithm_of_the_batch() -> None:
    """A map of sentences that gives one point: every answer is as near as the own one."""
    rows, found = user_rows(8), model(first_stage=0.0)
    torch.nn.init.zeros_(found.sentence.weight)
    told = told_as(torch.arange(8))
    loss, _ = found.loss(FoundBatch(READER.batch(rows), told), ALONE, 0)
    # e -> q: all the same, ln 8; q -> e: q is one point, and the mean over rows of -log softmax over e is at least ln 8
    e_BC = torch.nn.functional.normalize(found.states(READER.batch(rows)), dim=1)
    q_C = torch.nn.functional.normalize(found.sentence.bias, dim=0)
    score_B = (e_BC @ q_C / found.config.temperature).double()
    backward = (score_B.logsumexp(dim=0) - score_B).mean().item()
    assert loss.item() == pytest.approx((math.log(8) + backward) / 2, rel=1e-5)
    alike_told = replace(told, id_B=torch.zeros(8, dtype=torch.int64))
    assert found.loss(FoundBatch(READER.batch(rows), alike_told), ALONE, 0)[0].item() == pytest.approx(0, abs=1e-6)


def test_sentences_tell_the_future_and_draw_anew_with_each_seed() -> None:
    rows = user_rows(12, seed=5)
    texts = sentences(rows, MODALITIES, 1000, 0)
    for text, future in zip(texts, rows["future"].to_pylist(), strict=True):
        assert all(event["text"] in text for event in future)
        amount = int(sum(event["amount"] or 0 for event in future))
        assert (f"For more than {amount}." in text) == (amount > 0)
        assert future or text == "nothing"
    some = [sentences(rows, MODALITIES, 2, seed) for seed in (1, 1, 2)]
    assert some[0] == some[1] != some[2]
    assert sentences(rows.slice(3, 2), MODALITIES, 2, 1) == some[0][3:5]


def test_users_and_sentences_can_be_compared(tiny_event_encoder: str) -> None:
    found = model(tiny_event_encoder, width=WIDTH)
    encoder = SmallEncoder(found, READER)
    texts = Embedder(encoder, 100).texts(
        ["bill: item 3. For more than 12.", "nothing", "bill: item 3. For more than 12."]
    )
    assert texts.vectors.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(texts.vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(texts.vectors[0], texts.vectors[2], atol=1e-6)
    found.event_encoder_digest, found._texts = "another", None
    with pytest.raises(InputError, match="was trained with another"):
        found.told(["nothing"])


def test_sentences_are_read_beyond_the_length_of_an_event_and_cuts_are_counted(tiny_event_encoder: str) -> None:
    long = "bill: " + ", ".join(f"item {n}" for n in range(6))
    texts = [long + " For more than 12.", long + " For more than 99.", "nothing"]
    vectors = {}
    for told_tokens in (16, 200):
        found = model(tiny_event_encoder, told_tokens=told_tokens)
        told = found.told(texts)
        assert told.cut_B.tolist() == [told_tokens == 16] * 2 + [False]
        vectors[told_tokens] = told.vector_BH
    torch.testing.assert_close(vectors[16][0], vectors[16][1])
    assert not torch.allclose(vectors[200][0], vectors[200][1], atol=1e-4)
    torch.testing.assert_close(vectors[16][2], vectors[200][2])
    told = replace(told_as(torch.arange(8)), cut_B=torch.arange(8) < 2)
    _, metrics = model(first_stage=0.0).loss(FoundBatch(READER.batch(user_rows(8)), told), ALONE, 0)
    assert metrics["sentences_cut"] == 0.25
    with pytest.raises(InputError, match="reads at most 512 word pieces, and 1000 are asked for"):
        model(tiny_event_encoder, told_tokens=1000).told(texts)


def test_a_packed_encoder_reads_sentences_without_the_source(tiny_event_encoder: str, tmp_path: Path) -> None:
    """The event encoder in the encoder's directory is read, wherever that lies."""
    source = shutil.copytree(tiny_event_encoder, tmp_path / "events")
    config = EventEncoderConfig(name=str(source), dtype="float32")
    learner = found_learner(config)
    learner.prepare()
    learner.save_encoder(str(tmp_path / "encoder"))
    texts = ["bill: item 3. For more than 12.", "nothing"]
    expected = texts_of(str(tmp_path / "encoder"), texts)
    pack(SavedEncoder.read(str(tmp_path / "encoder")))
    shutil.rmtree(source)
    np.testing.assert_array_equal(texts_of(str(tmp_path / "encoder"), texts), expected)
    (tmp_path / "encoder" / "pretrained" / "packed.json").unlink()
    with pytest.raises(InputError, match="cannot be loaded"):
        texts_of(str(tmp_path / "encoder"), texts)


def found_learner(config: EventEncoderConfig) -> Learner:
    """FOUND in training on a few rows, of which the second half of the steps reads sentences."""
    rows, events = user_rows(12), EventEncoder(config, torch.device("cpu"))
    features = tuple(f"f{i}" for i in range(7))
    inputs = Inputs(MODALITIES, features, (), events.width, events.digest, wide_lookup(events.width))
    found = FoundConfig(kind="found", event_encoder=config, newest=9, width=6, state=8, first_stage=0.5)
    training = TrainingConfig(steps=4, batch_size=6, centre_rows=12)
    return new_learner(found, None, inputs, Run(training, ALONE, 0, rows, 80, torch.device("cpu")))


def wide_lookup(width: int) -> Lookup:
    return lambda texts: np.resize(lookup(texts), (len(texts), width))


def texts_of(location: str, texts: list[str]) -> np.ndarray:
    return Embedder(load(location, lookup, torch.device("cpu")), 100).texts(texts).vectors


def test_held_out_rows_are_scored_by_the_last_stage(tiny_event_encoder: str) -> None:
    """In the first stage, too, so that all looks at them can be compared."""
    learner = found_learner(EventEncoderConfig(name=tiny_event_encoder, dtype="float32"))
    learner.prepare()
    rows = user_rows(8, seed=3)
    first = learner.held_out(rows)
    learner.step = 3
    assert learner.held_out(rows) == first
    assert "sentences_cut" in first


@pytest.mark.parametrize("first_stage", [0.0, 0.5])
def test_the_nested_loss_is_the_mean_over_slices(first_stage: float) -> None:
    rows, found = user_rows(8), model(first_stage=first_stage, divergence_weight=0.0, window_days=1e4)
    found.prepare(READER, rows, 80, 0)
    told = None if first_stage else told_as(torch.arange(8))
    batch, objective = FoundBatch(READER.batch(rows), told), Objective(found.config.temperature, 2.0, ("ua",))
    if told is None:
        user_BC, answer_BC, _ = found._windows(batch.history, ALONE, 0)
    else:
        user_BC, answer_BC = found.states(batch.history), found.sentence(told.vector_BH)
    expected = []
    for n in (3, 5, 8):
        sides = gathered(user_BC[:, :n], answer_BC[:, :n], batch.history.user_B, False)
        swapped = sides._replace(user_BD=sides.answer_BD, answer_BD=sides.user_BD)
        each = [info_nce(s, objective).item() for s in ((sides,) if told is None else (sides, swapped))]
        expected.append(np.mean(each))
    found.nested = (3, 5)
    assert found.loss(batch, ALONE, 0)[0].item() == pytest.approx(np.mean(expected), rel=1e-5)

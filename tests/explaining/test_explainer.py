"""Explanations against independent loops, closed forms and planted events."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.features import FeatureReader, Features
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.encoders.small_model import SmallEncoder, SmallModel
from ray_ggsm.encoders.stream import StreamReader, raw_vectors, rows_of_events
from ray_ggsm.evaluation.linear_probe import LinearProbe
from ray_ggsm.explaining.config import DeletionConfig, GradientsConfig
from ray_ggsm.explaining.events import choose_rows, event_counts, events_read
from ray_ggsm.explaining.explainer import Explainer, first_events
from ray_ggsm.explaining.gradients import IntegratedGradients
from ray_ggsm.masks.fixed import BidirectionalConfig
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.masks.hybrid_mlp import HybridMLPConfig
from ray_ggsm.model.modality import Modality
from tests.helpers.encoders import WIDTH, encoder_on, lookup
from tests.helpers.probes import planted as planted_labels
from tests.helpers.probes import run
from tests.helpers.rows import user_rows

MODALITIES = (Modality("bill", 7), Modality("app", 5))
MASKS = [
    BidirectionalConfig(recipe="bidirectional"),
    GGSMConfig(recipe="ggsm", total_steps=10),
    HybridMLPConfig(recipe="hybrid_mlp"),
]


def probe_of(width: int, seed: int = 0) -> LinearProbe:
    """A probe that nobody has fitted."""
    draw = np.random.default_rng(seed)
    scale_D, weight_1D = draw.uniform(0.5, 2, width), draw.normal(size=(1, width)).astype(np.float32)
    return LinearProbe(draw.normal(size=width), scale_D, weight_1D, np.array([0.3], np.float32))


def long_row() -> pa.Table:
    """A row with more events of both modalities than are kept."""
    rows = user_rows(12, most=20)
    count_MB = event_counts(rows, MODALITIES)
    (n, *_) = np.flatnonzero((count_MB > np.array([[7], [5]])).all(axis=0))
    return rows.slice(int(n), 1)


def language_model(decoder: str, mask=MASKS[0], **model) -> LanguageModel:
    bundle = encoder_on(decoder, mask, **model)
    bundle.encoder.centre_user_D.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return LanguageModel(bundle, lookup)


def explainer(encoder, probe, steps: int | None = None, **deletion) -> Explainer:
    config = GradientsConfig(steps=steps) if steps else None
    gradients = IntegratedGradients(encoder, probe, config, 4096) if config else None
    return Explainer(Embedder(encoder, 4096), probe, gradients, DeletionConfig(**deletion), seed=0)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.recipe)
def test_leave_one_out_is_a_loop_over_rows_that_lack_one_event(tiny_decoder: str, mask) -> None:
    encoder = language_model(tiny_decoder, mask, fusion={"width": 4, "hidden": 5, "linear_width": 3})
    probe, row = probe_of(encoder.vector_width), long_row()
    found = explainer(encoder, probe)(row)
    values = {m.name: row[m.name].to_pylist()[0][-m.keep :] for m in MODALITIES}

    def score(lists: dict) -> float:
        changed = row
        for name, events in lists.items():
            column = pa.array([events], row[name].type)
            changed = changed.set_column(changed.column_names.index(name), name, column)
        return float(probe.scores(Embedder(encoder, 4096)(changed).vectors)[0])

    expected = [
        score(values) - score(values | {name: events[:n] + events[n + 1 :]})
        for name, events in values.items()
        for n in range(len(events))
    ]
    assert len(expected) == 12, "both modalities have more than they keep"
    np.testing.assert_allclose(found.effects["leave_one_out"], expected, atol=2e-5)
    assert found.score == pytest.approx(float(probe.scores(Embedder(encoder, 4096)(row).vectors)[0]), abs=2e-5)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: mask.recipe)
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_integrated_gradients_sum_to_the_change_of_the_score(tiny_decoder: str, mask, baseline: str) -> None:
    """Also where a pass takes a part of the path only; the score is that of the ordinary embedder."""
    encoder = language_model(tiny_decoder, mask, fusion={"width": 4, "hidden": 5, "linear_width": 3})
    probe = probe_of(encoder.vector_width)
    row = events_read(long_row(), MODALITIES, None)
    config = GradientsConfig(steps=200 if baseline == "zero" else 48, baseline=baseline)
    found = IntegratedGradients(encoder, probe, config, tokens=800)(row)
    assert found.score == pytest.approx(float(probe.scores(Embedder(encoder, 4096)(row).vectors)[0]), abs=2e-5)
    moved = abs(found.score - found.baseline_score)
    assert moved > 1e-3
    assert abs(found.gap) < 0.02 * moved
    assert len(found.effect_E) == event_counts(row, MODALITIES).sum()
    coarse = IntegratedGradients(encoder, probe, config.model_copy(update={"steps": 2}), tokens=4096)(row)
    assert abs(coarse.gap) > abs(found.gap), "the gap is what the rule misses"


class _Sums(SmallModel):
    """The sum of event vectors, which is linear in the events."""

    def __init__(self) -> None:
        super().__init__(WIDTH)

    def states(self, batch):
        row_E, vector_EH = rows_of_events(batch), raw_vectors(batch.contents, torch.arange(len(batch.age_E)))
        read_E = row_E >= 0
        zeros_BH = vector_EH.new_zeros(len(batch.length_B), vector_EH.shape[1])
        return zeros_BH.index_add(0, row_E[read_E], vector_EH[read_E])

    def vectors(self, batch):
        return self.states(batch)


@pytest.fixture
def planted() -> tuple[Explainer, pa.Table, float]:
    """A linear encoder, a probe that sees one text, and rows that have it once, beside many others."""

    def one_text(texts: pa.Array) -> np.ndarray:
        vectors = 0.01 * lookup(texts)
        vectors[[text == "planted" for text in texts.to_pylist()], 0] = 0.5
        return vectors

    probe = LinearProbe(np.zeros(WIDTH), np.ones(WIDTH), np.eye(1, WIDTH, dtype=np.float32), np.zeros(1, np.float32))
    reader = StreamReader(MODALITIES, 9, one_text)
    rows = user_rows(30, most=20)
    bills = rows["bill"].to_pylist()
    for events in bills:
        events[-1]["text"] = "planted"
    rows = rows.set_column(rows.column_names.index("bill"), "bill", pa.array(bills, rows["bill"].type))
    deletion = DeletionConfig(events=2, draws=40)
    return Explainer(Embedder(SmallEncoder(_Sums(), reader), 4096), probe, None, deletion, 0), rows, 0.5


def test_a_planted_event_is_found_first_and_its_effect_is_its_own(planted) -> None:
    explain, rows, size = planted
    for n in range(5):
        found = explain(rows.slice(n, 1))
        counts = event_counts(found.rows, MODALITIES)[:, 0]
        effect_E = found.effects["leave_one_out"]
        assert len(effect_E) == counts.sum() <= 9
        assert first_events(effect_E, 1)[0] == counts[0] - 1, "the newest bill, which is the planted event"
        rest = np.expm1(found.score) - size  # the probe takes logarithms
        alone = found.score - np.sign(rest) * np.log1p(abs(rest))
        assert effect_E[counts[0] - 1] == pytest.approx(alone, abs=1e-5)


def test_deleting_the_planted_event_moves_more_than_deleting_any(planted) -> None:
    """k random events of E hit the planted one with probability k / E, and move the score no more otherwise."""
    explain, rows, _ = planted
    found = [each for n in range(12) if (each := explain(rows.slice(n, 1))).moves is not None]
    assert len(found) > 6
    ratios = [each.moves.explained["leave_one_out"] / each.moves.random for each in found]
    chances = [2 / len(each.effects["leave_one_out"]) for each in found]
    assert np.median(ratios) > 2
    np.testing.assert_allclose(np.median(ratios), np.median(1 / np.array(chances)), rtol=0.5)


def test_a_lightgbm_probe_is_explained_by_leaving_events_out(planted) -> None:
    explain, rows, _ = planted
    probe = run("lightgbm", planted_labels(width=WIDTH), planted_labels(width=WIDTH, seed=1)).probe
    found = Explainer(explain.embedder, probe, None, DeletionConfig(), 0)(rows.slice(0, 1))
    assert list(found.effects) == ["leave_one_out"]
    assert 0 < found.score < 1
    assert found.score == probe.scores(explain.embedder(found.rows).vectors)[0]


def test_rows_with_too_few_events_have_no_deletion_test(tiny_decoder: str) -> None:
    encoder = language_model(tiny_decoder)
    rows = user_rows(3)
    empty = rows.slice(0, 1)
    for m in MODALITIES:
        empty = empty.set_column(empty.column_names.index(m.name), m.name, pa.array([[]], empty[m.name].type))
    found = explainer(encoder, probe_of(encoder.vector_width), steps=2)(empty)
    assert found.moves is None
    assert not len(found.effects["leave_one_out"])
    assert not len(found.effects["integrated_gradients"])


def test_a_kind_that_reads_no_events_is_refused() -> None:
    with pytest.raises(InputError, match="this kind does not read events one by one"):
        explainer(SmallEncoder(Features(7), FeatureReader()), probe_of(8))


def test_the_newest_events_of_a_stream_are_those_that_its_reader_reads() -> None:
    rows = user_rows(8, most=20)
    reader = StreamReader(MODALITIES, 6, lookup)
    cut = events_read(rows, MODALITIES, 6)
    assert (event_counts(cut, MODALITIES).sum(axis=0) == reader.counts(rows)).all()
    model = _Sums()
    whole, part = (model.states(reader.batch(each)) for each in (rows, cut))
    torch.testing.assert_close(whole, part)


def test_rows_are_chosen_by_user_whatever_files_they_come_in() -> None:
    rows = user_rows(20)
    year_before = [day.replace(year=2023) for day in rows["as_of"].to_pylist()]
    older = rows.set_column(1, "as_of", pa.array(year_before, rows["as_of"].type))
    chosen = choose_rows([older, rows.slice(0, 9), rows.slice(9)], None, 7, 0)
    again = choose_rows([pa.concat_tables([rows, older])], None, 7, 0)
    assert chosen.equals(again)
    assert len(set(chosen["user_id"].to_pylist())) == 7
    assert {d.year for d in chosen["as_of"].to_pylist()} == {2024}
    assert choose_rows([rows], None, 7, 1)["user_id"].to_pylist() != chosen["user_id"].to_pylist()
    assert choose_rows([rows, older], ["u0-3", "nobody"], 7, 0)["user_id"].to_pylist() == ["u0-3"]

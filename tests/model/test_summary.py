"""Summaries and the projection: what they hold, where they stand, and that they change nothing else."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import FusionConfig, ProjectionConfig
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.model.template import Template
from tests.helpers.encoders import RECIPES, lookup

SMALL = ProjectionConfig(hidden=9, width=8)


def collator(bundle: EncoderBundle) -> Collator:
    return Collator(bundle.encoder.template, bundle.tokenizer, lookup)


def names(bundle: EncoderBundle, rows: pa.Table) -> list[list[str]]:
    """Slot names of each row's tokens."""
    tokens = collator(bundle).users(rows).layout.tokens
    slots = bundle.encoder.template.slot_names
    return [[slots[s] for s in row[valid].tolist()] for row, valid in zip(tokens.slot_BL, tokens.valid_BL, strict=True)]


def test_a_row_begins_with_the_user_then_with_what_it_has(make_encoder, make_rows) -> None:
    rows = make_rows(users=20, most=3)
    with_, without = names(make_encoder(summary_tokens=True), rows), names(make_encoder(), rows)
    empty = [not events for events in rows["app"].to_pylist()]
    assert any(empty)
    assert not all(empty)
    for row, bare, is_empty in zip(with_, without, empty, strict=True):
        assert row == ["MEAN", "MEAN[bill]", *([] if is_empty else ["MEAN[app]"]), "MEAN[tabular]", *bare]


def test_a_row_without_anything_has_no_summary_and_one_with_all_fills_every_slot() -> None:
    template = Template((Modality("bill", 4), Modality("app", 3)), 0, 6, summary_tokens=True)
    layout = template.user_layout(np.array([[0, 2], [0, 0]]), np.array([1, 1]))
    assert layout.tokens.length_B().tolist() == [6, 6 + 2 + 2]
    assert (layout.summary_BL[0] == -1).all()
    assert layout.summary_BL[1, :3].tolist() == [0, 1, -1]
    every = template.every_slot().slot_BL[0].tolist()
    assert sorted(every) == list(range(len(template.slot_names)))
    block = dict(zip(template.slot_names, template.block_S.tolist(), strict=True))
    expected = {"MEAN": -1, "MEAN[bill]": 0, "MEAN[app]": 1, "app[2]": 1, "</app>": 1, "text": -1, "<USER>": -1}
    assert {name: block[name] for name in expected} == expected


def test_summaries_are_networks_of_means_before_the_adapters(make_encoder, make_rows) -> None:
    """Against a loop over rows and events; a modality without events does not count in the user's mean."""
    rows = pa.concat_tables([make_rows(users=6, most=14), make_rows(users=6, seed=1, most=2)])
    assert any(not events for events in rows["app"].to_pylist())
    encoder = (bundle := make_encoder(summary_tokens=True)).encoder.eval()
    encoder.tabular.fit(torch.tensor(rows["tabular"].to_pylist()))
    batch = collator(bundle).users(rows)
    inputs_BLD = encoder.inputs(batch).detach()
    z_BF = encoder.tabular.z_scores(batch.tabular_BF)
    for b, row in enumerate(rows.to_pylist()):
        kept = {"bill": row["bill"][-7:], "app": row["app"][-5:]}
        means = [
            np.mean([lookup(pa.array([event["text"]]))[0] for event in events], axis=0)
            for events in kept.values()
            if events
        ]
        means = [torch.tensor(mean, dtype=torch.float32) for mean in means] + [encoder.summaries.features[1](z_BF[b])]
        vectors = [encoder.summaries.user(torch.stack(means).mean(dim=0)), *map(encoder.summaries.modality, means)]
        for position, vector in enumerate(vectors):
            rms = vector.square().mean().sqrt()
            torch.testing.assert_close(
                inputs_BLD[b, position], vector.detach() / rms * encoder.input_scale, atol=1e-5, rtol=1e-4
            )
    inputs_BLD = encoder.inputs(batch)
    inputs_BLD[:, 0].sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in encoder.summaries.user.parameters() if p.dim() == 2)
    assert all(p.grad is None or not p.grad.any() for p in encoder.summaries.modality.parameters())


@pytest.mark.parametrize("mask", RECIPES, ids=lambda m: m.recipe)
def test_a_row_has_one_vector_in_any_batch_and_after_a_save(mask, make_encoder, make_rows, tmp_path) -> None:
    """As wide as the projection and the features' part, normalised, for users and texts alike."""
    fusion = FusionConfig(width=5, hidden=6, dropout=0)
    bundle = make_encoder(mask, summary_tokens=True, projection=SMALL, fusion=fusion, adapter_layers=1)
    assert [name for name in bundle.encoder.state_dict() if name.startswith("adapters.bill.2")] == []
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in bundle.encoder.trainable().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    bundle.encoder.set_centres(torch.randn(9, 8 + 7 + 5), torch.randn(8))
    saved.save(bundle, str(tmp_path))
    assert SavedEncoder.read(str(tmp_path)).description.width == 8 + 7 + 5
    back = saved.load(str(tmp_path), torch.device("cpu"))
    rows = make_rows()
    before, after = (Embedder(LanguageModel(b, lookup), tokens_per_batch=300) for b in (bundle, back))
    users, texts = before(rows).vectors, before.texts(["milk", "a loaf of bread"]).vectors
    assert np.array_equal(after(rows).vectors, users)
    assert np.array_equal(after.texts(["milk", "a loaf of bread"]).vectors, texts)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([users, texts]), axis=1), 1, atol=1e-5)
    for i in (0, 5):
        np.testing.assert_allclose(before(rows.slice(i, 1)).vectors[0], users[i], atol=1e-5)


def test_both_towers_go_through_one_projection(make_encoder, make_rows) -> None:
    """What is centred and published is the network of the state that there would be without it."""
    plain, projected = make_encoder(pooling="mean"), make_encoder(pooling="mean", projection=SMALL)
    for batch in (
        collator(plain).users(make_rows()),
        collator(plain).text_sequences(["yes", "rather not"]).batch(np.arange(2)),
    ):
        weight = plain.recipe.inference_weight(batch.layout.tokens)
        states_BD, found_BP = (bundle.encoder.eval()(batch, weight).detach() for bundle in (plain, projected))
        first, last = projected.encoder.projection.mlp[0], projected.encoder.projection.mlp[2]
        expected_BP = torch.nn.functional.gelu(states_BD @ first.weight.T + first.bias) @ last.weight.T + last.bias
        torch.testing.assert_close(found_BP, expected_BP)


def test_all_else_begins_as_without_the_options(make_encoder) -> None:
    plain, q_anchor = (
        make_encoder(**m).encoder.state_dict() for m in ({}, {"summary_tokens": True, "projection": SMALL})
    )
    own = {name for name in q_anchor if name.startswith(("projection.", "summaries.", "centre_"))}
    assert {name for name in plain if not name.startswith("centre_")} == q_anchor.keys() - own
    assert [name for name in q_anchor.keys() - own if not torch.equal(plain[name], q_anchor[name])] == []
    linear = make_encoder(adapter_layers=1).encoder.state_dict()
    assert torch.equal(linear["adapters.bill.1.weight"], plain["adapters.bill.1.weight"])

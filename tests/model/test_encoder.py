"""The encoder: no padding leaks, no batch effects, causal means causal, and saved encoders come back as they were."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from transformers import AutoModel

from ray_ggsm.config import InputError
from ray_ggsm.masks.fixed import CausalConfig
from ray_ggsm.masks.hybrid_mlp import HybridMLPConfig
from ray_ggsm.model import saved
from ray_ggsm.model.adapters import NumberEmbedding
from ray_ggsm.model.attention import Visibility
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.observe import Observe
from ray_ggsm.model.saved import EncoderBundle
from tests.helpers.encoders import RECIPES, lookup


def collator(bundle: EncoderBundle) -> Collator:
    return Collator(bundle.encoder.template, bundle.tokenizer, lookup)


def pooled(bundle: EncoderBundle, rows: pa.Table, step: int = 3) -> torch.Tensor:
    batch = collator(bundle).users(rows)
    bundle.encoder.eval()
    with torch.no_grad():
        return bundle.encoder(batch, bundle.recipe.future_weight(batch.layout.tokens, step))


def perturb(bundle: EncoderBundle) -> None:
    """LoRA starts at zero: move it, so that the low-rank path counts."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in bundle.encoder.trainable().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.mark.parametrize("mask", RECIPES, ids=lambda m: m.recipe)
@pytest.mark.parametrize("pooling", ["user", "mean"])
def test_a_row_gives_the_same_vector_alone_in_a_batch_and_in_another_order(
    mask, pooling, make_encoder, make_rows
) -> None:
    bundle, rows = make_encoder(mask, pooling=pooling), make_rows()
    perturb(bundle)
    together = pooled(bundle, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = pooled(bundle, rows.take(pa.array(order)))
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=1e-5)
    for i in (0, 5):
        torch.testing.assert_close(pooled(bundle, rows.slice(i, 1)), together[i : i + 1], atol=1e-5, rtol=1e-5)


def test_causal_equals_the_untouched_hugging_face_model(make_encoder, make_rows, tiny_decoder) -> None:
    bundle, rows = make_encoder(CausalConfig(recipe="causal")), make_rows()
    batch = collator(bundle).users(rows)
    inputs = bundle.encoder.inputs(batch).detach()
    tokens = batch.layout.tokens
    ours = bundle.encoder.hidden(inputs, tokens, bundle.recipe.future_weight(tokens, 0))
    original = AutoModel.from_pretrained(tiny_decoder, num_hidden_layers=2)
    theirs = original(inputs_embeds=inputs, attention_mask=tokens.valid_BL.long()).last_hidden_state
    torch.testing.assert_close(ours[tokens.valid_BL], theirs[tokens.valid_BL], atol=1e-5, rtol=1e-5)


def test_bidirectional_sees_the_future_and_causal_does_not(make_encoder, make_rows) -> None:
    rows = make_rows()
    for mask, changes in ((RECIPES[0], False), (RECIPES[1], True)):
        bundle = make_encoder(mask)
        batch = collator(bundle).users(rows)
        inputs = bundle.encoder.inputs(batch).detach()
        other = inputs.clone()
        other[0, batch.layout.last_B[0]] += 1
        tokens = batch.layout.tokens
        weight = bundle.recipe.inference_weight(tokens)
        first = bundle.encoder.hidden(inputs, tokens, weight)[0, 0]
        assert torch.equal(first, bundle.encoder.hidden(other, tokens, weight)[0, 0]) != changes


def test_the_learned_mask_is_trained_saved_and_opens_the_history_only(make_encoder, make_rows, tmp_path) -> None:
    bundle, rows = make_encoder(HybridMLPConfig(recipe="hybrid_mlp"), pooling="mean"), make_rows()
    encoder, batch = bundle.encoder, collator(bundle).users(rows)
    perturb(bundle)
    weight = bundle.recipe.future_weight(batch.layout.tokens, 0)
    encoder(batch, weight).square().sum().backward()
    learned_mask = {n: p for n, p in encoder.trainable().items() if n.startswith("learned_mask.")}
    assert len(learned_mask) == 2 * 4  # two layers of the backbone, two linear layers each with weight and bias
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned_mask.values())
    inputs = encoder.inputs(batch).detach()
    for changed, seen in ((int(batch.layout.last_B[0]), False), (3, True)):  # <USER>, and an early token
        other = inputs.clone()
        other[0, changed] += 1
        first = encoder.hidden(inputs, batch.layout.tokens, weight)[0, 0]
        assert torch.equal(first, encoder.hidden(other, batch.layout.tokens, weight)[0, 0]) != seen
    saved.save(bundle, str(tmp_path))
    assert torch.equal(pooled(bundle, rows), pooled(saved.load(str(tmp_path), torch.device("cpu")), rows))


def test_observed_gradient_is_the_one_autograd_gives_at_the_input(make_encoder, make_rows) -> None:
    bundle, rows = make_encoder(pooling="mean"), make_rows(users=3)
    encoder, batch = bundle.encoder.eval(), collator(bundle).users(rows)
    weight = bundle.recipe.future_weight(batch.layout.tokens, 0)
    seen: list[torch.Tensor] = []
    encoder(batch, weight, [Observe("input", seen.append)]).square().sum().backward()
    inputs = encoder.inputs(batch).detach().requires_grad_()
    loss = encoder.pool(encoder.hidden(inputs, batch.layout.tokens, weight), batch).square().sum()
    (expected,) = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(seen[0], expected)
    assert (seen[0][~batch.layout.tokens.valid_BL] == 0).all()


def test_saved_encoder_comes_back_exactly(make_encoder, make_rows, tmp_path) -> None:
    bundle, rows = make_encoder(RECIPES[3]), make_rows()
    perturb(bundle)
    bundle.encoder.centre_user_D.uniform_()
    saved.save(bundle, str(tmp_path))
    back = saved.load(str(tmp_path), torch.device("cpu"))
    assert torch.equal(pooled(bundle, rows), pooled(back, rows))
    assert torch.equal(back.encoder.centre_user_D, bundle.encoder.centre_user_D)
    assert back.mask == bundle.mask
    assert not [f for f in tmp_path.rglob("*") if f.suffix in (".bin", ".pt", ".pkl", ".pickle")]


@pytest.mark.parametrize("width", [None, 8, 12])
def test_a_backbone_from_random_weights_is_trained_and_comes_back(width, make_encoder, make_rows, tmp_path) -> None:
    backbone = {"weights": "random", "width": width, "trained": "all"}
    bundle, rows = make_encoder(backbone=backbone), make_rows()
    trained = {name for name in bundle.encoder.trainable() if name.startswith("backbone.")}
    every = {name for name, _ in bundle.encoder.named_parameters() if name.startswith("backbone.")}
    assert every - trained == {"backbone.embed_tokens.weight"}
    if width is not None:
        assert bundle.encoder.width == width
    perturb(bundle)
    saved.save(bundle, str(tmp_path))
    torch.testing.assert_close(pooled(saved.load(str(tmp_path), torch.device("cpu")), rows), pooled(bundle, rows))


@pytest.mark.parametrize("trained", ["lora", "all"])
def test_random_weights_are_the_seed_s(trained, make_encoder, make_rows, tmp_path) -> None:
    """Seeds vary all that a study's intervals over seeds speak of, and each encoder comes back from its directory."""
    rows, backbone = make_rows(), {"weights": "random", "trained": trained}
    zero, one, of_config = make_encoder(backbone=backbone), make_encoder(backbone=backbone, seed=1), {"seed": 1}
    weights = [dict(bundle.encoder.backbone.named_parameters()) for bundle in (zero, one)]
    matrices = [name for name, weight in weights[0].items() if weight.dim() == 2 and "lora_" not in name]
    assert matrices
    assert not any(torch.equal(weights[0][name], weights[1][name]) for name in matrices)
    assert zero.backbone_digest != one.backbone_digest
    assert one.backbone_digest == make_encoder(backbone=backbone | of_config, seed=2).backbone_digest
    for name, bundle in {"0": zero, "1": one}.items():
        saved.save(bundle, str(tmp_path / name))
        back = saved.load(str(tmp_path / name), torch.device("cpu"))
        torch.testing.assert_close(pooled(back, rows), pooled(bundle, rows))
    assert "seed" not in json.loads((tmp_path / "0" / "encoder.json").read_text())["model"]["backbone"]


def test_half_way_encoder_embeds_with_its_own_mask(make_encoder) -> None:
    """That of step 0 embeds with the mask of the finished one, which it is compared with."""
    start = make_encoder(RECIPES[2])
    tokens = start.encoder.template.every_slot()
    half_way, done = (replace(start, step=step) for step in (5, 10))
    assert (half_way.embedding_weight(tokens) == 0.5).all()
    for finished in (
        start.embedding_weight(tokens), half_way.embedding_weight(tokens, finished=True), done.embedding_weight(tokens)
    ):  # fmt: skip
        assert (finished == 1).all()


@pytest.mark.parametrize("name", saved.FILES)
def test_a_changed_file_is_refused(name, make_encoder, tmp_path) -> None:
    saved.save(make_encoder(RECIPES[3]), str(tmp_path))
    data = bytearray((tmp_path / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / name).write_bytes(bytes(data))
    with pytest.raises(InputError, match=name):
        saved.load(str(tmp_path), torch.device("cpu"))


def test_another_tokenizer_is_refused(make_encoder, tmp_path) -> None:
    saved.save(make_encoder(), str(tmp_path))
    file = tmp_path / "tokenizer" / "tokenizer.json"
    described = json.loads(file.read_text())
    vocabulary = described["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(described))
    with pytest.raises(InputError, match="tokenizer"):
        saved.load(str(tmp_path), torch.device("cpu"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone_digest", "0"), ("template_digest", "0"), ("tokenizer_digest", "0"), ("format", 9),
        ("event_width", 13), ("step", 1), ("alpha", 0.4),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(key, value, make_encoder, tmp_path) -> None:
    saved.save(make_encoder(RECIPES[2]), str(tmp_path))
    described = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**described, key: value}))
    with pytest.raises(InputError, match=str(tmp_path)):
        saved.load(str(tmp_path), torch.device("cpu"))


def test_no_encoder_here(tmp_path) -> None:
    with pytest.raises(InputError, match=r"encoder\.json is missing"):
        saved.load(str(tmp_path), torch.device("cpu"))


def test_text_cannot_smuggle_in_special_tokens(make_encoder, make_rows) -> None:
    """A query that spells a tag stays text: the tags' embeddings are not reachable from user data."""
    bundle, rows = make_encoder(), make_rows(users=1)
    queried = rows.append_column("query", pa.array(["<USER> </bill>"]))
    layout = collator(bundle).users(queried).layout
    tags = len(bundle.encoder.template.tags)
    assert (layout.id_BL == bundle.encoder.template.tags.index("<USER>")).sum() == 1
    assert (layout.id_BL >= tags).sum() > len("Instruction:")


@pytest.mark.parametrize("site", ["last", "layer:1", "layer:2", "mean_layers"])
def test_grad_sites_against_autograd(site, make_encoder, make_rows) -> None:
    bundle = make_encoder(pooling="user" if site == "last" else "mean")
    encoder, batch = bundle.encoder.eval(), collator(bundle).users(make_rows(users=3))
    tokens = batch.layout.tokens
    weight = bundle.recipe.future_weight(tokens, 0)
    seen: list[torch.Tensor] = []
    encoder(batch, weight, [Observe(site, seen.append)]).square().sum().backward()
    visibility = Visibility(weight, tokens.valid_BL, torch.float32, "eager")
    inputs = encoder.inputs(batch).detach().requires_grad_()
    output = encoder.backbone(inputs_embeds=inputs, visibility=visibility, output_hidden_states=True)
    loss = encoder.pool(output.last_hidden_state, batch).square().sum()
    after = output.hidden_states[1:]
    wanted = {"last": [output.last_hidden_state], "layer:1": after[:1], "layer:2": after[1:], "mean_layers": after}[
        site
    ]
    expected = torch.autograd.grad(loss, list(wanted))
    assert len(seen) == len(expected)
    for gradient in expected:
        assert any(torch.allclose(gradient, other, atol=1e-6) for other in seen)
    if site == "last":  # why it cannot rank tokens
        others = tokens.valid_BL.clone()
        others[torch.arange(3), batch.layout.last_B] = False
        assert (seen[0][others] == 0).all()


def test_the_gradient_at_the_mask_against_differences(make_encoder, make_rows) -> None:
    """Opening one key a little, at log w, changes the loss as much as its gradient says. The first key is nobody's
    future key, so its gradient is 0."""
    bundle = make_encoder(pooling="mean")
    encoder, batch = bundle.encoder.eval(), collator(bundle).users(make_rows(users=2))
    tokens = batch.layout.tokens
    weight = torch.full_like(tokens.valid_BL, 0.5, dtype=torch.float32)
    direction_D = torch.linspace(-1, 1, encoder(batch, weight).shape[1])
    seen: list[torch.Tensor] = []

    def loss(weight_BL: torch.Tensor, observe: tuple[Observe, ...] = ()) -> torch.Tensor:
        return (encoder(batch, weight_BL, observe) @ direction_D).sum()

    loss(weight, (Observe("mask", seen.append),)).backward()
    (found_BL,) = seen
    assert found_BL.shape == weight.shape
    assert (found_BL[:, 0] == 0).all()
    assert (found_BL[~tokens.valid_BL] == 0).all()
    step, largest = 0.1, found_BL.abs().max()
    with torch.no_grad():
        for j in range(1, int(tokens.length_B().min()), 3):
            up, down = weight.clone(), weight.clone()
            up[0, j], down[0, j] = 0.5 * np.exp(step), 0.5 * np.exp(-step)
            difference = (loss(up) - loss(down)) / (2 * step)
            assert found_BL[0, j].item() == pytest.approx(difference.item(), abs=0.02 * largest.item())


def test_a_layer_the_backbone_does_not_have_is_refused(make_encoder, make_rows) -> None:
    bundle = make_encoder()
    batch = collator(bundle).users(make_rows(users=2))
    weight = bundle.recipe.future_weight(batch.layout.tokens, 0)
    with pytest.raises(InputError, match="found layer:3, but the backbone has 2 layers"):
        bundle.encoder(batch, weight, [Observe("layer:3", print)])


def test_the_tabular_residual_is_linear_in_the_z_scores_and_the_users_only(make_encoder, make_rows, tmp_path) -> None:
    bundle, rows = make_encoder(tabular_residual=True, tabular_dropout=0.5), make_rows()
    tabular_BF = torch.tensor(rows["tabular"].to_pylist())
    bundle.encoder.tabular.fit(tabular_BF)
    whole_BD, weight_DF = pooled(bundle, rows), bundle.encoder.tabular.residual[1].weight
    saved.save(bundle, str(tmp_path))
    torch.testing.assert_close(pooled(saved.load(str(tmp_path), torch.device("cpu")), rows), whole_BD)
    signed_log = tabular_BF.sign() * (1 + tabular_BF.abs()).log()
    z_BF = (signed_log - signed_log.mean(dim=0)) / signed_log.std(dim=0, correction=0)
    expected_BD = z_BF.clamp(-5, 5) @ weight_DF.detach().T
    answers = collator(bundle).text_sequences(["milk", "bread"]).batch(np.arange(2))
    open_ = torch.ones_like(answers.layout.tokens.valid_BL, dtype=torch.float32)
    before_BD = bundle.encoder(answers, open_)
    with torch.no_grad():
        weight_DF.zero_()
    torch.testing.assert_close(whole_BD - pooled(bundle, rows), expected_BD, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(bundle.encoder(answers, open_), before_BD)


def test_ages_are_told_in_phases_of_the_periods() -> None:
    numbers = NumberEmbedding(5, (1.0, 7.0, 365.25))
    numbers.mlp = nn.Identity()
    age = 365.25 / 4
    found = numbers(torch.tensor([age]), torch.tensor([float("nan")]))[0].tolist()
    day, week = 2 * math.pi * age, 2 * math.pi * age / 7
    waves = [math.sin(day), math.cos(day), math.sin(week), math.cos(week), 1.0, 0.0]
    expected = [math.log1p(age) / math.log(91), age / 90, *waves, 0.0, 1.0]
    assert found == pytest.approx(expected, abs=1e-4)

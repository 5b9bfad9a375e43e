"""Nested losses against loops over slices in float64, their gradients, and what is refused."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from ray_ggsm.config import InputError, build
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.experiment import Experiment
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import FusionConfig
from ray_ggsm.model.fusion import Columns, Fusion
from ray_ggsm.model.saved import load
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loss import Objective, Sides, gathered, info_nce
from ray_ggsm.training.nested import nested_info_nce
from ray_ggsm.training.targets import Heads, Targets, TargetsConfig
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import encoder_on, lookup
from tests.test_identity import EXPERIMENT

B, D = 9, 8
OBJECTIVE = Objective(0.2, 0.1)


def states(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    user_BD, answer_BD = torch.randn(2, B, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return user_BD, answer_BD + user_BD


def sides_of(user_BD: torch.Tensor, answer_BD: torch.Tensor) -> Sides:
    return gathered(user_BD, answer_BD, torch.arange(B) // 2, centre=True)


def by_loop(user: np.ndarray, answer: np.ndarray, n: int, objective: Objective) -> float:
    """Eq. 6-8 of the first n columns of centred states, row by row and pair by pair."""
    u, a = (
        [row[:n] / math.sqrt(sum(x * x for x in row[:n])) for row in side - side.mean(0)] for side in (user, answer)
    )
    cosine = lambda x, y: sum(p * q for p, q in zip(x, y, strict=True))  # noqa: E731
    losses = []
    for i in range(len(u)):
        positive = cosine(u[i], a[i])
        total = math.exp(positive / objective.temperature)
        for j in range(len(u)):
            if i // 2 == j // 2:
                continue
            for s in (cosine(u[i], a[j]), cosine(u[i], u[j]), cosine(a[i], a[j])):
                total += math.exp(s / objective.temperature) if s <= positive + objective.margin else 0
        losses.append(math.log(total) - positive / objective.temperature)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("columns", [(3,), (2, 3, 5)])
def test_the_contrast_is_the_mean_over_slices(columns: tuple[int, ...]) -> None:
    user_BD, answer_BD = states()
    expected = [by_loop(user_BD.numpy(), answer_BD.numpy(), n, OBJECTIVE) for n in (*columns, D)]
    found = nested_info_nce(sides_of(user_BD, answer_BD), OBJECTIVE, columns)
    assert found.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert len({round(each, 3) for each in expected}) == len(expected), "slices that cannot be told apart show nothing"


def test_without_prefixes_and_with_all_columns_it_is_the_plain_loss_to_the_bit() -> None:
    sides = sides_of(*states())
    assert torch.equal(nested_info_nce(sides, OBJECTIVE, ()), info_nce(sides, OBJECTIVE))
    assert torch.equal(nested_info_nce(sides, OBJECTIVE, (D,)), info_nce(sides, OBJECTIVE))


def test_gradients_are_the_mean_of_those_of_slices() -> None:
    columns, found, expected = (2, 5), *(tuple(s.requires_grad_() for s in states()) for _ in range(2))
    nested_info_nce(sides_of(*found), OBJECTIVE, columns).backward()
    for n in (*columns, D):
        (info_nce(sides_of(*(side[:, :n] for side in expected)), OBJECTIVE) / 3).backward()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)
        assert one.grad[:, :2].norm(dim=0).min() > one.grad[:, 5:].norm(dim=0).max() / 3


def test_heads_of_prefixes_against_a_loop() -> None:
    W, nested, widths = 6, (2, 4), (3, 2, 1, 1, 1)
    heads = Heads(W, widths, torch.zeros(8), 0, nested).double()
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)  # noqa: E731
    vector_BW = torch.nn.functional.normalize(draw(B, W), dim=1)
    parts = [draw(B, n) for n in (3, 2, 1, 1, 1, 1, 1)]
    binary = [(part > 0).double() for part in parts]
    targets = Targets(binary[0], parts[1], parts[2], binary[3], binary[4], parts[5], binary[6])
    config = TargetsConfig(horizons_days=(1,), numbers=2.0, activity=3.0)
    found = heads.losses(vector_BW, targets, config)
    expected = dict.fromkeys(found, 0.0)
    for n, layer in zip((*nested, W), (*heads.nested, heads), strict=True):
        cut = [row[:n] / np.linalg.norm(row[:n]) * math.sqrt(n) for row in vector_BW.numpy()]
        alone = Heads(n, widths, torch.zeros(8), 0).double()
        alone.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        of_slice = alone.losses(torch.tensor(np.array(cut)) / math.sqrt(n), targets, config)
        expected = {name: value + of_slice[name].item() / 3 for name, value in expected.items()}
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(expected, rel=1e-9)
    assert set(found) == {"contents", "activity", "first", "new", "numbers"}


def test_heads_without_prefixes_are_those_of_before() -> None:
    plain, nested = (Heads(6, (2, 1), torch.zeros(3), 5, sizes) for sizes in ((), (2,)))
    assert set(plain.state_dict()) == {"weight", "bias"}
    assert torch.equal(plain.weight, nested.weight)


@pytest.mark.parametrize(("D", "P", "K"), [(5, 3, 5), (6, 2, 3), (2, 3, 4)])
def test_mixed_columns_take_turns_and_keep_everything(D: int, P: int, K: int) -> None:
    columns = Columns(D, Fusion(P, FusionConfig(width=K, columns="mixed")))
    names = [*(f"s{i}" for i in range(D)), *(f"z{i}" for i in range(P)), *(f"n{i}" for i in range(K))]
    order = [names[place] for place in columns(torch.arange(D + P + K)[None])[0]]
    assert order == [name for i in range(max(D, P, K)) for name in (f"s{i}", f"z{i}", f"n{i}") if name in names]
    for n in range(1, D + P + K + 1):
        assert columns.of_sequence(n) == sum(name.startswith("s") for name in order[:n])


def learner(decoder: str, rows: pa.Table, nested: Sequence[int], columns: str = "mixed") -> Contrastive:
    fusion = FusionConfig(width=5, hidden=6, linear_width=7, dropout=0, columns=columns)
    bundle = encoder_on(decoder, GGSMConfig(recipe="ggsm", total_steps=3), pooling="mean", fusion=fusion)
    targets = TargetsConfig(horizons_days=(7,))
    config = TrainingConfig(steps=3, batch_size=8, centre_rows=8, targets=targets, nested=tuple(nested))
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    found = Contrastive(bundle, collator, config, ALONE, 0, head=rows, future_days=80)
    found.prepare()
    return found


def test_a_step_of_a_fused_encoder_reaches_the_first_columns_of_both_parts(
    make_rows: Callable[..., pa.Table], tiny_decoder: str
) -> None:
    rows = make_rows(8)
    plain, nested = learner(tiny_decoder, rows, ()), learner(tiny_decoder, rows, (4,))
    assert nested.columns == [2], "two of the sequence, one of the linear part, one of the network"
    losses = [each.gradients(rows)["loss"] for each in (plain, nested)]
    assert losses[0] != losses[1]
    network = "fusion.network.3.weight"
    before, after = (each.parameters()[network].grad for each in (plain, nested))
    more_K = (after - before / 2).norm(dim=1)  # half of the loss is that of the whole vector
    assert more_K[0] > 5 * more_K[1:].max(), "the prefix has the network's first output"
    assert nested.parameters()["heads.nested.0.weight"].grad.norm() > 0
    assert any(importance.norm() > 0 for importance in nested.recipe.state_dict().values()), "GG-SM sees its gradients"


def test_vectors_are_published_in_the_order_of_training(make_rows: Callable[..., pa.Table], tiny_decoder: str) -> None:
    rows, vectors = make_rows(8), {}
    for columns in ("joined", "mixed"):
        each = learner(tiny_decoder, rows, (), columns)
        pooled_BW = each._part(rows).towers.states(each.bundle.embedding_weight)["user"]
        vectors[columns] = each.encoder.vectors(pooled_BW, "user")
        torch.testing.assert_close(vectors[columns], each.encoder.batch_vectors(pooled_BW), rtol=1e-4, atol=1e-5)
        answer_BW = each.encoder.vectors(torch.ones(1, each.encoder.width), "answer")
        assert torch.equal(answer_BW != 0, each.encoder.columns(torch.arange(each.encoder.vector_width)[None]) < 24)
    in_order = {"joined": vectors["joined"], "mixed": vectors["mixed"][:, each.encoder.columns.order_W.argsort()]}
    for part in (slice(24), slice(31, 36)):  # the linear part between them is turned, which no product sees
        torch.testing.assert_close(in_order["mixed"][:, part], in_order["joined"][:, part], rtol=1e-4, atol=1e-5)
    products = [vector_BW @ vector_BW.T for vector_BW in vectors.values()]
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-5)


def test_prefixes_that_are_no_prefixes_are_refused(make_rows: Callable[..., pa.Table], tiny_decoder: str) -> None:
    with pytest.raises(InputError, match="no part of a vector of 36"):
        learner(tiny_decoder, make_rows(8), (4, 36))
    with pytest.raises(ValueError, match="rising order"):
        TrainingConfig(steps=1, batch_size=2, nested=(8, 4))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"kind": "cpc", "event_encoder": {"name": "e"}}, "an encoder of the kind cpc has no loss over prefixes"),
        ({**EXPERIMENT["model"], "fusion": {}}, "set model.fusion.columns: mixed"),
    ],
)
def test_what_cannot_nest_is_refused(model: dict[str, Any], sentence: str) -> None:
    mask = {"recipe": "causal"} if "kind" not in model else None
    values = {**EXPERIMENT, "model": model, "mask": mask, "training": {**EXPERIMENT["training"], "nested": [4]}}
    with pytest.raises(InputError, match=sentence):
        build(Experiment, values, "x")
    build(Experiment, {**values, "training": EXPERIMENT["training"]}, "x")


@pytest.mark.parametrize("linear_width", [None, 3, 9])
def test_the_mixed_linear_part_begins_with_what_varies_most(linear_width: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    z_BF = torch.randn(400, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    fusion = Fusion(6, FusionConfig(width=2, linear_width=linear_width, columns="mixed")).eval()
    fusion.fit(z_BF)
    values, vectors = np.linalg.eigh(np.cov(z_BF.numpy().astype(float).T))
    n = min(linear_width or 6, 6)
    found = fusion(z_BF)[:, : fusion.widths[0]].detach().numpy()
    np.testing.assert_allclose(found[:, :n].var(axis=0, ddof=1), values[::-1][:n], rtol=1e-4)
    for column, vector in zip(found.T, vectors.T[::-1][:n], strict=False):
        expected = z_BF.numpy() @ vector * np.sign(vector[np.abs(vector).argmax()])
        np.testing.assert_allclose(column, expected, rtol=1e-3, atol=1e-3)
    assert not fusion.linear.weight.requires_grad
    plain = Fusion(6, FusionConfig(width=2)).eval()
    plain.fit(z_BF)
    assert torch.equal(plain(z_BF)[:, :6], z_BF), "joined columns are the z-scores themselves, as before"


def test_a_mixed_encoder_comes_back_exactly(
    make_rows: Callable[..., pa.Table], tiny_decoder: str, tmp_path: Path
) -> None:
    rows = make_rows(8)
    for columns in ("joined", "mixed"):
        each = learner(tiny_decoder, rows, (), columns)
        place = str(tmp_path / columns)
        each.save_encoder(place)
        fusion = json.loads((tmp_path / columns / "encoder.json").read_text())["model"]["fusion"]
        assert fusion.get("columns", "joined") == columns
        assert ("columns" in fusion) == (columns == "mixed"), "digests of encoders stay as they were"
        written = json.loads((tmp_path / columns / "encoder.json").read_text())["model"]
        assert not {"adapter_layers", "summary_tokens", "projection"} & {*written}, "nor do these at their defaults"
        back = LanguageModel(load(place, torch.device("cpu")), lookup)
        each.encoder.eval()
        expected = Embedder(LanguageModel(each.bundle, lookup), 4096)(rows).vectors
        np.testing.assert_allclose(Embedder(back, 4096)(rows).vectors, expected, atol=1e-6)

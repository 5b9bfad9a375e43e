"""What is recorded of the mask is what the user tower saw, slot by slot."""

import math

import pytest
import torch

from ray_ggsm.masks.fixed import PrefixConfig
from ray_ggsm.masks.hybrid_mlp import START, HybridMLP, HybridMLPConfig
from ray_ggsm.masks.scheduler import SchedulerConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.template import Template
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.mask_log import LearnedWeights, slot_weights
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import lookup

TEMPLATE = Template((Modality("bill", 3), Modality("app", 2)), 2, 5)
ORDER = [
    "<bill>", "bill[2]", "bill[1]", "bill[0]", "</bill>", "<app>", "app[1]", "app[0]", "</app>",
    "<tabular>", "tabular[0]", "tabular[1]", "</tabular>", "text", "<USER>", "<ANSWER>",
]  # fmt: skip
"""The slots of a full row, in the order of its tokens."""


def by_name(weight_S: torch.Tensor, template: Template = TEMPLATE) -> dict[str, float]:
    return dict(zip(template.slot_names, weight_S.tolist(), strict=True))


def test_prefix_is_open_in_the_user_segment_and_closed_after_it() -> None:
    _, weight_S = slot_weights(TEMPLATE, PrefixConfig(recipe="prefix").build(), 0)
    assert by_name(weight_S) == {name: float(name not in ("text", "<USER>")) for name in ORDER}


def test_a_window_is_seen_in_the_order_of_tokens() -> None:
    """A quarter of the way a query sees the next 4 of 16 tokens; a slot's mean is over the queries before it."""
    recipe = SchedulerConfig(recipe="scheduler", shape="window", total_steps=4).build()
    values, weight_S = slot_weights(TEMPLATE, recipe, 1)
    expected = {name: min(j, 4) / max(j, 1) for j, name in enumerate(ORDER)}
    assert by_name(weight_S) == pytest.approx(expected)
    assert values.mean().item() == pytest.approx(sum(min(j, 4) for j in range(16)) / (16 * 15 / 2))


def test_learned_weights_against_a_loop_over_pairs(make_encoder, make_rows) -> None:
    """Layers, rows and queries of user micro-batches count, once each, and nothing of the answer tower."""
    bundle, rows = make_encoder(HybridMLPConfig(recipe="hybrid_mlp"), pooling="mean"), make_rows(users=9)
    assert isinstance(bundle.recipe, HybridMLP)
    mask = bundle.encoder.learned_mask
    for parameter in mask.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    learned = LearnedWeights(mask, len(bundle.encoder.template.slot_names))
    batch = collator.user_sequences(rows).batch(torch.arange(9).numpy())
    tokens, passes = batch.layout.tokens, []
    mask.register_forward_hook(lambda module, arguments, weight_BLL: passes.append(weight_BLL.detach().double()))
    learned.watch(tokens)
    with torch.no_grad():
        bundle.encoder(batch, bundle.recipe.future_weight(tokens, 0))
        first = list(passes)
        bundle.encoder(batch, bundle.recipe.future_weight(tokens, 0))  # not watched
    sums: dict[int, list[float]] = {}
    for weight_BLL in first:
        for b in range(9):
            length = int(tokens.length_B()[b])
            for j in range(length):
                sums.setdefault(int(tokens.slot_BL[b, j]), []).extend(weight_BLL[b, i, j].item() for i in range(j))
    found = learned.end_step(ALONE)
    for slot in range(len(found)):
        weights = sums.get(slot, [])
        mean = sum(weights) / len(weights) if weights else math.nan
        assert found[slot].item() == pytest.approx(mean, abs=1e-5, nan_ok=True)
    assert len(first) == 2
    assert learned.end_step(ALONE).isnan().all()


@pytest.mark.parametrize("graph_tokens", [0, 10**6])
def test_a_step_logs_the_learned_mask(graph_tokens, make_encoder, make_rows, tmp_path) -> None:
    bundle, rows = make_encoder(HybridMLPConfig(recipe="hybrid_mlp"), pooling="mean"), make_rows(users=24)
    config = TrainingConfig(
        steps=1, batch_size=24, centre_rows=20, tokens_per_micro_batch=200, graph_tokens=graph_tokens
    )
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    learner = Contrastive(bundle, collator, config, ALONE, 0, head=rows)
    trainer = Trainer(learner, config, ALONE)
    learner.prepare()
    log = trainer.step(rows)
    start = 1 / (1 + math.exp(-START))
    assert log["w_max"] == pytest.approx(
        start, rel=1e-3
    )  # untrained, every later key of the user segment weighs as much
    (weights,) = learner.mask_log.slot_weights(bundle.mask).weight.values()
    named = dict(zip(bundle.encoder.template.slot_names, weights, strict=True))
    assert named["bill[0]"] == pytest.approx(start, rel=1e-3)
    assert named["<bill>"] == named["<USER>"] == 0  # nothing is before it; outside the user segment

"""The next-token loss on answers behind <USER>: against loops, in micro-batches, and unseen by the user vector."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from ray_ggsm.config import InputError
from ray_ggsm.masks import RecipeConfig, Tokens
from ray_ggsm.masks.fixed import BidirectionalConfig, CausalConfig
from ray_ggsm.masks.ggsm import GGSM, GGSMConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import LoraConfig, ProjectionConfig
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.training.answers import AnswerConfig
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.heads import Wanted
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.next_token import TOKENS_AT_A_TIME, head_flops, next_token_loss
from ray_ggsm.training.pairs import Pairs, head
from ray_ggsm.training.questions import QuestionsConfig
from ray_ggsm.training.towers import Towers
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import RECIPES, encoder_on, lookup
from tests.helpers.resume import comparable, goes_on_bit_for_bit, step, weights
from tests.helpers.rows import user_rows

STEPS, BATCH = 4, 12
TEXTS = ["yes, several times within 30 days", None, "no", None, "bill worth 5 to 10 in 30 days"]
QUESTIONS = QuestionsConfig(output="unused")


def mixed_rows(users: int, seed: int = 0) -> pa.Table:
    """Behaviour pairs, and questions with answers."""
    texts = [TEXTS[n % len(TEXTS)] for n in range(users)]
    queries = pa.array(["what next?" if text else None for text in texts], pa.string())
    rows = user_rows(users, seed).append_column("query", queries)
    return rows.append_column("answer", pa.array(texts, pa.string()))


@pytest.fixture
def make_trainer(tiny_decoder: str, tmp_path: Path) -> Callable[..., Trainer]:
    def make(model: dict | None = None, mask: RecipeConfig | None = None, **training: Any) -> Trainer:
        pq.write_table(mixed_rows(37), tmp_path / "rows.parquet", row_group_size=11)
        config = TrainingConfig(
            **{"steps": STEPS, "batch_size": BATCH, "centre_rows": 20, "tokens_per_micro_batch": 10**6, **training}
        )
        bundle = encoder_on(tiny_decoder, mask or GGSMConfig(recipe="ggsm", total_steps=STEPS), **(model or {}))
        collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
        learner = Contrastive(bundle, collator, config, ALONE, 0, head=head(str(tmp_path), 30))
        trainer = Trainer(learner, config, ALONE)
        trainer.pairs = Pairs(str(tmp_path), BATCH, 0)
        learner.prepare()
        return trainer

    return make


def moved(bundle: EncoderBundle) -> EncoderBundle:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in bundle.encoder.trainable().values():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    if isinstance(bundle.recipe, GGSM):
        slots = len(bundle.encoder.template.slot_names)
        bundle.recipe.importance_S, bundle.recipe.seen_S = torch.rand(slots), torch.ones(slots, dtype=torch.bool)
    return bundle


@pytest.mark.parametrize("pooling", ["user", "mean"])
@pytest.mark.parametrize("mask", RECIPES, ids=lambda m: m.recipe)
def test_the_user_vector_does_not_see_its_answer(mask, pooling, tiny_decoder) -> None:
    """Under the mask of a step in the middle and under that of inference."""
    model = {"summary_tokens": True} if pooling == "mean" else {}
    bundle, rows = moved(encoder_on(tiny_decoder, mask, pooling=pooling, **model)), mixed_rows(9)
    collator, encoder = Collator(bundle.encoder.template, bundle.tokenizer, lookup), bundle.encoder.eval()
    ids = collator.answer_ids(rows["answer"].to_pylist())
    for weight in (lambda tokens: bundle.recipe.future_weight(tokens, 5), bundle.recipe.inference_weight):
        with_, without = (
            Towers(encoder, {"user": collator.user_sequences(rows, answers)}, 300, 0).states(weight)["user"]
            for answers in (ids, None)
        )
        torch.testing.assert_close(encoder.vectors(with_, "user"), encoder.vectors(without, "user"), atol=1e-6, rtol=0)
        assert (with_ - without).abs().max() < 1e-5


def test_an_open_mask_alone_would_leak_the_answer(tiny_decoder) -> None:
    """What the test above holds against is real: without closing, <USER> sees what follows it."""
    bundle, rows = moved(encoder_on(tiny_decoder, BidirectionalConfig(recipe="bidirectional"))), mixed_rows(9)
    collator, encoder = Collator(bundle.encoder.template, bundle.tokenizer, lookup), bundle.encoder.eval()
    batch = collator.users(rows, collator.answer_ids(rows["answer"].to_pylist()))
    weight = bundle.recipe.inference_weight(batch.layout.tokens)
    closed = batch.layout.tokens.closed_to_answers(weight)
    difference_B = (encoder(batch, weight) - encoder(batch, closed)).abs().amax(dim=1)
    has_B = torch.tensor([text is not None for text in rows["answer"].to_pylist()])
    assert (difference_B[has_B] > 1e-3).all()
    assert (difference_B[~has_B] < 1e-5).all()


def answered(bundle: EncoderBundle, rows: pa.Table) -> tuple[Any, torch.Tensor, int]:
    """A batch with answers, its final states, and the number of answer tokens."""
    collator, encoder = Collator(bundle.encoder.template, bundle.tokenizer, lookup), bundle.encoder.eval()
    ids = collator.answer_ids(rows["answer"].to_pylist())
    batch = collator.users(rows, ids)
    own = batch.layout.tokens.without_answers()
    weight = batch.layout.tokens.closed_to_answers(bundle.recipe.inference_weight(own))
    return batch, encoder.pooled_and_hidden(batch, weight)[1], sum(map(len, ids))


def test_against_a_loop_in_float64(tiny_decoder) -> None:
    """Token by token through the untouched model of transformers, each row alone."""
    bundle, rows = encoder_on(tiny_decoder, CausalConfig(recipe="causal")), mixed_rows(40)
    batch, hidden_BLD, tokens = answered(bundle, rows)
    assert tokens > TOKENS_AT_A_TIME, "in several parts"
    found = next_token_loss(bundle.encoder, hidden_BLD, batch).item() / tokens
    original = AutoModelForCausalLM.from_pretrained(tiny_decoder, num_hidden_layers=2).double()
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    losses: list[float] = []
    for n, text in enumerate(rows["answer"].to_pylist()):
        if text is None:
            continue
        prompt_LD = bundle.encoder.inputs(collator.users(rows.slice(n, 1)))[0].detach().double()
        answer = [*bundle.tokenizer(text)["input_ids"], bundle.tokenizer.eos_token_id]
        for t, token in enumerate(answer):
            words_LD = original.get_input_embeddings()(torch.tensor(answer[:t], dtype=torch.long))
            with torch.no_grad():
                logits_V = original(inputs_embeds=torch.cat([prompt_LD, words_LD])[None]).logits[0, -1]
            losses.append(-torch.log_softmax(logits_V, dim=0)[token].item())
    assert len(losses) == tokens
    assert found == pytest.approx(sum(losses) / tokens, rel=1e-5)


def test_uniform_logits_give_ln_v_and_no_answers_give_0(tiny_decoder) -> None:
    bundle = encoder_on(tiny_decoder, RECIPES[1])
    with torch.no_grad():
        bundle.encoder.backbone.get_input_embeddings().weight.zero_()
    batch, hidden_BLD, tokens = answered(bundle, mixed_rows(9))
    assert next_token_loss(bundle.encoder, hidden_BLD, batch).item() / tokens == pytest.approx(math.log(258))
    batch, hidden_BLD, tokens = answered(bundle, mixed_rows(9).slice(1, 1))
    assert (next_token_loss(bundle.encoder, hidden_BLD, batch).item(), tokens) == (0, 0)


def test_operations_of_the_head(tiny_decoder) -> None:
    bundle = encoder_on(tiny_decoder, RECIPES[0])
    batch, hidden_BLD, tokens = answered(bundle, mixed_rows(9))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        next_token_loss(bundle.encoder, hidden_BLD.detach(), batch)
    assert head_flops(bundle.encoder, tokens) == 2 * counter.get_total_flops()  # as much again for the states' gradient


@pytest.mark.parametrize("form", ["events", "text"])
def test_the_log_has_the_mean_over_answer_tokens(form, make_trainer) -> None:
    """Of rows with text answers: those that bring one, and with `form: text` all."""
    trainer = make_trainer(ntp_weight=0.5, questions=QUESTIONS, answer=AnswerConfig(form=form, draws=2))
    learner, rows = trainer.learner, trainer.pairs.batch(0)
    part = learner._part(rows, appended=True)
    given = [text for text in rows["answer"].to_pylist() if text]
    tokens = sum(len(text) + 1 for text in given)
    assert part.appended_tokens == tokens if form == "events" else part.appended_tokens > tokens
    plain = learner._part(rows)
    assert part.towers.length_N.sum() - plain.towers.length_N.sum() == part.appended_tokens
    log = step(trainer)
    assert log["loss"] == pytest.approx(log["loss_contrast"] + log["loss_ntp"], rel=1e-6)
    assert 0.5 * 3 < log["loss_ntp"] < 0.5 * 12  # ln 258 is 5.6
    only_futures = rows.set_column(rows.column_names.index("answer"), "answer", pa.nulls(len(rows), pa.string()))
    assert ("loss_ntp" in trainer.step(only_futures)) == (form == "text")


def test_words_are_learned(make_trainer) -> None:
    trainer = make_trainer(steps=30, ntp_weight=1.0, questions=QUESTIONS, optimizer={"learning_rate": 1e-2})
    rows = trainer.pairs.batch(0)
    losses = [trainer.step(rows)["loss_ntp"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.2


def test_micro_batches_and_cached_gradients_change_nothing(make_trainer) -> None:
    options = {"ntp_weight": 0.5, "questions": QUESTIONS}
    model = {"lora": LoraConfig(r=3, alpha=3, dropout=0.2), "tabular_dropout": 0.3, "pooling": "mean"}
    kept, some, none = (
        make_trainer(model, tokens_per_micro_batch=150, graph_tokens=g, **options) for g in (10**6, 400, 0)
    )
    for _ in range(2):
        first = comparable(step(kept))
        assert first == comparable(step(some)) == comparable(step(none))
    for name, weight in weights(kept).items():
        assert torch.equal(weights(some)[name], weight), name
        assert torch.equal(weights(none)[name], weight), name
    whole, cut = make_trainer(**options), make_trainer(tokens_per_micro_batch=150, **options)
    for _ in range(2):
        first, second = step(whole), step(cut)
        for key, value in comparable(first).items():
            assert second[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key


def test_the_mask_learns_from_user_tokens_alone(make_trainer) -> None:
    trainer = make_trainer(ntp_weight=0.5, questions=QUESTIONS)
    learner, seen = trainer.learner, []
    part = learner._part(trainer.pairs.batch(0), appended=True)

    def observers(tokens: Tokens) -> list:
        seen.append(tokens)
        return []

    learner._backward(part, Wanted(None, None), observers)
    assert all(tokens.answer_BL is None for tokens in seen)
    user = learner.collator.user_lengths(part.rows).sum()
    assert sum(int(tokens.valid_BL.sum()) for tokens in seen) == user


OPTIONS: dict[str, tuple[dict, dict]] = {
    "summaries": ({"summary_tokens": True}, {}),
    "projection": ({"projection": ProjectionConfig(hidden=9, width=8), "pooling": "mean"}, {}),
    "next tokens": ({"lora": LoraConfig(r=3, alpha=3, dropout=0.2)}, {"ntp_weight": 0.5, "questions": QUESTIONS}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_restored_run_goes_on_bit_for_bit(name, make_trainer, tmp_path) -> None:
    model, training = OPTIONS[name]
    goes_on_bit_for_bit(lambda: make_trainer(model, **training), tmp_path)


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("tie_word_embeddings", False, "has a head of its own"),
        ("logit_scale", 0.1, r"changes its logits \(logit_scale\)"),
    ],
)
def test_a_head_that_is_not_the_embeddings_is_refused(setting, value, reason, tiny_decoder, tmp_path) -> None:
    other = shutil.copytree(tiny_decoder, tmp_path / "other")
    described = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**described, setting: value}))
    bundle = encoder_on(str(other), RECIPES[0])
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    config = TrainingConfig(steps=2, batch_size=4, ntp_weight=1, questions=QUESTIONS)
    with pytest.raises(InputError, match=rf"training\.ntp_weight: the backbone .* {reason}"):
        Contrastive(bundle, collator, config, ALONE, 0, head=mixed_rows(4))


def test_answers_without_words_are_refused() -> None:
    with pytest.raises(ValueError, match="ntp_weight: no answer is a text"):
        TrainingConfig(steps=1, batch_size=4, ntp_weight=1)
    for words in ({"answer": {"form": "text"}}, {"questions": {"output": "q"}}):
        TrainingConfig(steps=1, batch_size=4, ntp_weight=1, **words)

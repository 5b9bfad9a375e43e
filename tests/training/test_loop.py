"""The loop: micro-batches do not change the step, a restored run goes on bit for bit, collapse is noticed."""

import math
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from ray_ggsm.config import InputError
from ray_ggsm.masks import MaskConfig, RecipeConfig
from ray_ggsm.masks.fixed import OracleConfig
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import BagConfig, FusionConfig, LoraConfig
from ray_ggsm.model.events import sample_future_events
from ray_ggsm.model.modality import Modality
from ray_ggsm.model.template import Template
from ray_ggsm.training.answers import AnswerConfig, aggregated, draw_answers, render
from ray_ggsm.training.config import HeldOutConfig, TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.divergence import DivergenceError, check_gradient, check_loss
from ray_ggsm.training.heads import Wanted
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.loss import BatchStatistics, gathered, info_nce, mean_cosine
from ray_ggsm.training.old_space import OldSpaceConfig
from ray_ggsm.training.optimizer import OptimizerConfig, set_learning_rate
from ray_ggsm.training.pairs import Pairs, head
from ray_ggsm.training.questions import without_some_queries
from ray_ggsm.training.targets import TargetsConfig
from ray_ggsm.training.workers import ALONE
from tests.helpers.encoders import lookup, made_up_vectors, old_space
from tests.helpers.resume import comparable, goes_on_bit_for_bit, step, weights

STEPS = 6
BAG = BagConfig(contents=30, least_rows=2, width=4)


@pytest.fixture
def make_trainer(make_encoder, make_rows, tmp_path) -> Callable[..., Trainer]:
    def make(model: dict | None = None, mask: dict | RecipeConfig | None = None, **changes) -> Trainer:
        pq.write_table(make_rows(users=37), tmp_path / "rows.parquet", row_group_size=11)
        values = {"steps": STEPS, "batch_size": 12, "centre_rows": 20, "tokens_per_micro_batch": 10**6, **changes}
        config = TrainingConfig(**values)
        if not isinstance(mask, RecipeConfig):
            mask = GGSMConfig(**{"recipe": "ggsm", "total_steps": STEPS, **(mask or {})})
        bundle = make_encoder(mask, pooling="mean", **(model or {}))
        collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
        pairs = Pairs(str(tmp_path), 12, 0)
        held_out = make_rows(users=9, seed=5) if config.held_out else None
        older = old_space(bundle.encoder.vector_width) if config.old_space else None
        rows = head(str(tmp_path), 30)
        learner = Contrastive(bundle, collator, config, ALONE, 0, head=rows, future_days=80, old_space=older)
        trainer = Trainer(learner, config, ALONE, held_out=held_out)
        trainer.pairs = pairs
        learner.prepare()
        return trainer

    return make


@pytest.mark.parametrize("form", ["events", "text"])
def test_loss_falls_and_everything_trainable_moves(form, make_trainer) -> None:
    """What decay alone would move stands still here: the tag <ANSWER>, which a text answer does not have."""
    optimizer = OptimizerConfig(learning_rate=3e-3, weight_decay=0)
    trainer = make_trainer(answer=AnswerConfig(form=form), optimizer=optimizer)
    before = weights(trainer)
    losses = [step(trainer)["loss"] for _ in range(STEPS)]
    assert losses[-1] < losses[0]
    assert trainer.done
    after = weights(trainer)
    assert [name for name, weight in after.items() if torch.equal(weight, before[name])] == []
    moved = (after["tags.weight"] != before["tags.weight"]).any(dim=1).tolist()
    still = [tag for tag, has_moved in zip(trainer.learner.encoder.template.tags, moved, strict=True) if not has_moved]
    assert still == (["<ANSWER>"] if form == "text" else [])


def test_micro_batches_give_the_step_of_the_whole_batch(make_trainer) -> None:
    whole, cut = make_trainer(), make_trainer(tokens_per_micro_batch=40)
    for _ in range(3):
        first, second = step(whole), step(cut)
        for key, value in comparable(first).items():
            assert second[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    torch.testing.assert_close(whole.learner.recipe.importance_S, cut.learner.recipe.importance_S, rtol=1e-3, atol=1e-7)


def test_targets_train_through_the_published_vector_and_their_heads_are_not_saved(make_trainer, tmp_path) -> None:
    """The heads read the very vectors that are published, as far as the batch's mean is that of the centre's rows."""
    optimizer = OptimizerConfig(learning_rate=3e-3, weight_decay=0)
    targets = TargetsConfig(horizons_days=(7, 80), new=0)
    model = {"fusion": FusionConfig(width=5, hidden=6, dropout=0, bag=BAG.model_copy(update={"dropout": 0.0}))}
    trainer = make_trainer(model, targets=targets, contrast_weight=0.5, optimizer=optimizer)
    before = weights(trainer)
    logs = [step(trainer) for _ in range(STEPS)]
    parts = ["loss_contrast", "loss_contents", "loss_activity", "loss_first"]
    assert all(log["loss"] == pytest.approx(sum(log[part] for part in parts), rel=1e-5) for log in logs)
    assert "loss_new" not in logs[0]
    assert logs[-1]["loss"] < logs[0]["loss"]
    for name in ("fusion.network.0.weight", "fusion.bag.linear.weight"):
        assert not torch.equal(before[name], weights(trainer)[name])
    trainer.learner.config = trainer.config.model_copy(update={"centre_rows": 30})
    trainer.learner.settle()
    head = trainer.learner.head.slice(0, 30)
    states_BW = trainer.learner._part(head).towers.states(trainer.learner.bundle.embedding_weight)["user"]
    torch.testing.assert_close(
        trainer.learner.encoder.batch_vectors(states_BW), trainer.learner.encoder.vectors(states_BW, "user")
    )
    trainer.save(str(tmp_path))
    assert not [name for name in load_file(tmp_path / "modules.safetensors") if "heads" in name]
    back = saved.load(str(tmp_path), torch.device("cpu")).encoder
    assert back.vector_width == trainer.learner.encoder.width + 7 + 5 + 4
    torch.testing.assert_close(back.vectors(states_BW, "user"), trainer.learner.encoder.vectors(states_BW, "user"))


@pytest.mark.parametrize("grad_site", ["input", "mask"])
@pytest.mark.parametrize("graph_tokens", [0, 150])
def test_gradient_caching_changes_nothing_and_dropout_is_replayed(graph_tokens, grad_site, make_trainer) -> None:
    """Without kept graphs, or with some, every bit is as with all graphs kept; GG-SM sees the same gradients."""
    model = {"tabular_dropout": 0.3, "lora": LoraConfig(r=3, alpha=3, dropout=0.2)}
    mask = {"grad_site": grad_site}
    kept, cached = (make_trainer(model, mask, tokens_per_micro_batch=60, graph_tokens=g) for g in (10**6, graph_tokens))
    for _ in range(3):
        assert comparable(step(kept)) == comparable(step(cached))
    for name, weight in weights(kept).items():
        assert torch.equal(weights(cached)[name], weight), name
    assert torch.equal(kept.learner.recipe.importance_S, cached.learner.recipe.importance_S)


def test_graphs_beyond_the_limit_are_not_kept(make_trainer) -> None:
    """At no time do more graphs live than `graph_tokens` and one micro-batch take."""
    trainer = make_trainer(tokens_per_micro_batch=60, graph_tokens=130)
    alive: list[int] = []
    forward = trainer.learner.encoder.forward

    def counting(batch, weight, observe=()):
        states = forward(batch, weight, observe)
        if states.requires_grad:
            references.append((weakref.ref(states), batch.layout.tokens.valid_BL.numel()))
        alive.append(sum(tokens for reference, tokens in references if reference() is not None))
        return states

    references: list = []
    trainer.learner.encoder.forward = counting
    step(trainer)
    assert len(alive) > 8
    assert 60 < max(alive) <= 130 + 60


def test_what_the_mask_did_is_logged_per_modality_and_slot(make_trainer) -> None:
    trainer = make_trainer(mask={"row_scale": "kept", "smoothing": 0.0, "warmup_share": 0.5})
    logs = [step(trainer) for _ in range(STEPS)]
    assert logs[0]["w_min"] == logs[0]["w_max"] == 0.5
    assert logs[0]["w_spread"] == 0
    assert logs[2]["w_min"] < logs[2]["w_p5"] < logs[2]["w_mean"] < logs[2]["w_p95"] < logs[2]["w_max"]
    assert logs[2]["w_spread"] > 0.05
    names = {"grad_norm/bill", "grad_norm/app", "grad_norm/tags", "grad_norm/tabular", "grad_norm/text"}
    assert names <= logs[0].keys()
    recorded = trainer.learner.mask_log.slot_weights(trainer.learner.bundle.mask)
    slots = recorded.slots
    assert recorded.weight[1] == (0.5,) * len(slots)
    assert set(recorded.weight) == set(range(1, STEPS + 1))
    assert (recorded.recipe, recorded.calibration) == ("ggsm", "zscore")
    importance = trainer.learner.recipe.importance_S
    for name, value in zip(slots, recorded.importance, strict=True):
        seen = bool(trainer.learner.recipe.seen_S[slots.index(name)])
        assert value == (pytest.approx(importance[slots.index(name)].item()) if seen else None)
    bills = [g for name, g in zip(slots, recorded.importance, strict=True) if name.startswith("bill[") and g]
    assert min(bills) < logs[2]["grad_norm/bill"] < max(bills)  # a mean over the same norms


def test_the_oracle_is_not_trained(make_trainer, make_encoder) -> None:
    bundle = make_encoder(OracleConfig(recipe="oracle"))
    template = make_trainer()
    learner = Contrastive(bundle, template.learner.collator, template.config, ALONE, 0, head=template.learner.head)
    trainer = Trainer(learner, template.config, ALONE)
    assert trainer.done


@pytest.mark.parametrize(
    "model",
    [{}, {"fusion": FusionConfig(width=5, hidden=6, bag=BAG), "backbone": {"weights": "random", "trained": "all"}}],
)
def test_a_restored_run_goes_on_bit_for_bit(model, make_trainer, tmp_path) -> None:
    """Also with targets and an older encoder's space, whose heads are in the checkpoint, and with a backbone that is
    trained from random weights."""
    values, heads = {"tabular_dropout": 0.3} | model, {}
    if model:
        heads = {"targets": TargetsConfig(horizons_days=(7, 80)), "old_space": OldSpaceConfig(encoder="older")}
    goes_on_bit_for_bit(lambda: make_trainer(values, **heads), tmp_path)


@pytest.mark.parametrize("targets", [None, TargetsConfig(horizons_days=(7, 80))])
def test_an_older_space_is_learned_through_the_published_vector(targets, make_trainer, tmp_path) -> None:
    """Its loss is 1 - cos of what the head reads, the vector learns it, and the head is not saved with it."""
    weight, optimizer = 3.0, OptimizerConfig(learning_rate=3e-3, weight_decay=0)
    config = OldSpaceConfig(encoder="older", weight=weight)
    trainer = make_trainer(old_space=config, targets=targets, contrast_weight=0.0, optimizer=optimizer)
    rows = trainer.pairs.batch(0)
    trainer.learner.encoder.eval()
    by_hand, held_out = expected_old_loss(trainer, rows, weight), trainer.learner.held_out(rows)
    assert held_out["loss_old_space"] == pytest.approx(by_hand, rel=1e-5)
    before, head = weights(trainer)["tags.weight"].clone(), trainer.learner.heads.old_space.weight.clone()
    first = trainer.step(rows)
    for _ in range(STEPS - 1):
        last = trainer.step(rows)
    assert last["loss_old_space"] < first["loss_old_space"] - 0.1
    assert not torch.equal(weights(trainer)["tags.weight"], before)
    assert not torch.equal(trainer.learner.heads.old_space.weight, head)
    trainer.save(str(tmp_path))
    assert not [name for name in load_file(tmp_path / "modules.safetensors") if "old" in name]


def test_an_older_encoder_is_asked_once_a_step(make_trainer, monkeypatch) -> None:
    """Also where GG-SM takes its gradients in a pass of its own."""
    trainer = make_trainer(mask={"timing": "two_pass", "warmup_share": 0.9}, old_space=OldSpaceConfig(encoder="older"))
    asked, vectors = [], trainer.learner.heads.old_space.vectors
    monkeypatch.setattr(trainer.learner.heads.old_space, "vectors", lambda rows: asked.append(1) or vectors(rows))
    step(trainer)
    assert len(asked) == 1


def expected_old_loss(trainer: Trainer, rows: pa.Table, weight: float) -> float:
    """The loss of an older encoder's space by loops, in float64."""
    learner = trainer.learner
    states_BW = learner._part(rows).towers.states(learner._weight)["user"]
    vector_BW = learner.encoder.batch_vectors(states_BW).double().numpy()
    A, a = (p.detach().double().numpy() for p in learner.heads.old_space.parameters())
    found = []
    for v, old in zip(vector_BW, made_up_vectors(rows).double().numpy(), strict=True):
        read = [sum(A[i, j] * v[j] for j in range(len(v))) + a[i] for i in range(len(a))]
        dot = sum(x * y for x, y in zip(read, old, strict=True))
        found.append(1 - dot / math.sqrt(sum(x * x for x in read) * sum(y * y for y in old)))
    return weight * sum(found) / len(found)


def test_collapse_and_divergence_stop_with_a_sentence_and_the_users(make_rows) -> None:
    rows = make_rows(users=3)
    solved = BatchStatistics(accuracy=1.0, mean_rank=1.0, positive=0.5, negative=0.1, masked={})
    check_loss(1.0, solved, 0.9, "bfloat16", 4, rows)
    check_loss(1.0, solved, 0.99999, "float32", 4, rows)
    check_gradient(1.0, 4, rows)
    collapsed = replace(solved, positive=1.0, negative=1.0)
    for check, sentence in (
        (
            lambda: check_loss(3.6, collapsed, 0.9, "bfloat16", 4, rows),
            "collapsed to one point",
        ),
        (lambda: check_loss(math.nan, solved, 0.9, "bfloat16", 4, rows), "the loss is nan"),
        (
            lambda: check_loss(3.87, solved, 0.99999, "bfloat16", 4, rows),
            "all user states point in one direction",
        ),
        (lambda: check_gradient(math.inf, 4, rows), "the gradient's norm is inf"),
    ):
        with pytest.raises(DivergenceError, match=f"step 4: .*{sentence}") as error:
            check()
        assert error.value.rows["user_id"].to_pylist() == rows["user_id"].to_pylist()


def test_states_of_one_point_stop_the_run_although_centring_hides_them(make_trainer, monkeypatch) -> None:
    """What all states have in common is a thousand times what sets them apart; centred, they look as before."""
    trainer = make_trainer(model={"centre": True})
    pool = trainer.learner.encoder.pool
    step(trainer)
    monkeypatch.setattr(trainer.learner.encoder, "pool", lambda *args: pool(*args) + 1e4)
    with pytest.raises(DivergenceError, match="step 1: all user states point in one direction"):
        step(trainer)
    assert max(abs(trainer.log[0]["cos_positive"]), abs(trainer.log[0]["cos_negative"])) < 0.9


def test_mean_cosine_against_a_loop_over_pairs() -> None:
    states_BD = torch.tensor(np.random.default_rng(0).normal(0.3, 1, size=(7, 5)), dtype=torch.float32)
    rows = states_BD.double().numpy()
    cosines = [
        float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))
        for i, x in enumerate(rows)
        for j, y in enumerate(rows)
        if i != j
    ]
    assert mean_cosine(states_BD, lambda sums: sums) == pytest.approx(np.mean(cosines), abs=1e-9)
    parts: list[torch.Tensor] = []
    mean_cosine(states_BD[:3], lambda sums: parts.append(sums) or sums)
    assert mean_cosine(states_BD[3:], lambda sums: sums + parts[0]) == pytest.approx(np.mean(cosines), abs=1e-9)
    assert mean_cosine(states_BD[:1], lambda sums: sums) == pytest.approx(0, abs=1e-9)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(make_trainer) -> None:
    trainer = make_trainer()
    before = weights(trainer)
    next(iter(trainer.learner.encoder.trainable().values())).register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(DivergenceError, match="gradient"):
        step(trainer)
    assert all(torch.equal(weights(trainer)[name], weight) for name, weight in before.items())


def test_held_out_pairs_are_looked_at_with_every_checkpoint_and_can_stop_the_run(make_trainer) -> None:
    held_out = HeldOutConfig(split="probe", patience=1)
    rising = OptimizerConfig(learning_rate=1e-30)  # nothing is learned
    trainer = make_trainer(held_out=held_out, checkpoint_every=2, optimizer=rising, mask={"warmup_share": 0.9})
    while not trainer.done:
        step(trainer)
    assert [e["step"] for e in trainer.log if "held_out_loss" in e] == list(
        range(2, trainer.learner.bundle.step + 1, 2)
    )
    patient = make_trainer(held_out=HeldOutConfig(split="probe"), checkpoint_every=4)
    while not patient.done:
        step(patient)
    assert [e["step"] for e in patient.log if "held_out_loss" in e] == [4, STEPS]
    states = patient.learner._part(patient.held_out, answer_seed=0).towers.states(patient.learner._weight)
    user_BD, answer_BD = (torch.nn.functional.normalize(s - s.mean(dim=0), dim=1) for s in states.values())
    cosine_BB = user_BD @ answer_BD.T
    rank_B = 1 + (cosine_BB > cosine_BB.diagonal()[:, None]).sum(dim=1).double()
    assert patient.log[-1]["held_out_mean_rank"] == pytest.approx(rank_B.mean().item())
    assert patient.log[-1]["held_out_accuracy"] == pytest.approx((rank_B == 1).double().mean().item())
    for loss in (3.0, 2.0, 2.5):  # the second look is the best; one more without a better one ends the run
        trainer.log.append({"step": 0, "held_out_loss": loss})
    trainer.learner.bundle = patient.learner.bundle.__class__(**{**vars(trainer.learner.bundle), "step": 1})
    assert trainer.done


def test_looking_at_held_out_pairs_changes_no_weight(make_trainer) -> None:
    with_, without = make_trainer(held_out=HeldOutConfig(split="probe"), checkpoint_every=1), make_trainer()
    for _ in range(3):
        assert step(with_).items() >= comparable(step(without)).items()


def test_a_checkpoint_of_another_run_is_refused_by_name(make_trainer, tmp_path) -> None:
    first, second = make_trainer(), make_trainer()
    first.identity = {"backbone": "1", "data snapshot": "2"}
    (tmp_path / "checkpoint").mkdir()
    first.save(str(tmp_path / "checkpoint"))
    second.identity = {"backbone": "1", "data snapshot": "3"}
    with pytest.raises(InputError, match="it has another data snapshot now"):
        second.restore(str(tmp_path / "checkpoint"))


@pytest.mark.parametrize("recipe", ["ggsm", "ggsm at the mask", "hybrid_mlp", "hybrid_gq"])
def test_activation_checkpointing_changes_nothing(recipe, make_trainer) -> None:
    model = {"lora": LoraConfig(r=3, alpha=3, dropout=0.2)}
    mask = {"grad_site": "mask" if "mask" in recipe else "input"}
    if not recipe.startswith("ggsm"):
        mask = TypeAdapter(MaskConfig).validate_python({"recipe": recipe})
    plain, frugal = (make_trainer(model, mask, activation_checkpointing=frugal) for frugal in (False, True))
    for _ in range(2):
        assert comparable(step(plain)) == pytest.approx(comparable(step(frugal)), rel=1e-5)


def test_steps_follow_from_epochs_data_and_batch() -> None:
    config = TrainingConfig(epochs=2.5, batch_size=10)
    assert config.resolved(rows=109).total_steps == 25
    for wrong in ({}, {"steps": 3, "epochs": 1.0}):
        with pytest.raises(ValueError, match="either steps or epochs"):
            TrainingConfig(batch_size=10, **wrong)


def test_learning_rate_rises_and_falls_and_ends_near_zero() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_share=0.1, new_modules_scale=3.0)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "scale": s} for s in (1.0, 3.0)]
    optimizer = torch.optim.AdamW(groups)
    rates = [set_learning_rate(optimizer, config, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates.index(max(rates)) in (10, 11)
    assert rates[0] < 0.15
    assert rates[-1] < 0.001
    assert optimizer.param_groups[1]["lr"] == pytest.approx(3 * rates[-1])


def test_rendered_answers_are_aggregated_by_type(make_rows) -> None:
    rows = make_rows()
    template = Template((Modality("bill", 50), Modality("app", 50)), 0, 8)
    texts = render(sample_future_events(rows, template.modalities, 50, 0), ["bill", "app"])
    for text, row in zip(texts, rows.to_pylist(), strict=True):
        bills = [e["text"] for e in row["future"] if e["modality"] == "bill"]
        if not row["future"]:
            assert text == "nothing"
        for item in set(bills):
            count = bills.count(item)
            assert (item if count == 1 else f"{item} x{count}") in text


def test_rows_with_an_answer_use_it(make_trainer, make_rows) -> None:
    trainer = make_trainer(answer=AnswerConfig(form="text", draws=3))  # given answers are taken once
    rows = make_rows(users=2).append_column("answer", pa.array(["yes", "rather not"]))
    answers = draw_answers(rows, trainer.learner.collator, trainer.config.answer, 0).sequences
    assert answers.length_B.tolist() == [len("yes") + 1, len("rather not") + 1]
    assert (answers.batch(np.array([1, 0])).layout.last_B + 1).tolist() == answers.length_B[::-1].tolist()


@pytest.mark.parametrize("form", ["events", "text"])
@pytest.mark.parametrize("draws", [1, 2])
def test_a_batch_may_hold_given_answers_and_futures(form, draws, make_trainer, make_rows) -> None:
    """Every row's answer is its own, whatever stands beside it, and a row with one has the state that it has alone."""
    trainer = make_trainer(answer=AnswerConfig(form=form, draws=draws))
    learner, rows = trainer.learner, make_rows(users=5)
    texts = [None, "yes", None, "rather not", "yes"]
    mixed = rows.append_column("answer", pa.array(texts, pa.string()))
    answers = draw_answers(mixed, learner.collator, trainer.config.answer, 3)
    alone = draw_answers(rows, learner.collator, trainer.config.answer, 3)
    b, future = len(rows), [0, 2]
    for k in range(draws):
        assert answers.id_N[k * b + 1] == answers.id_N[k * b + 4] != answers.id_N[k * b + 3]
        for n in future:
            assert answers.id_N[k * b + n] == alone.id_N[k * b + n]
            assert answers.sequences.length_B[k * b + n] == alone.sequences.length_B[k * b + n]
    part, by_itself = learner._part(mixed), learner._part(mixed.slice(3, 1))
    state_ND = part.towers.states(learner._weight)["answer"]
    assert len(state_ND) == draws * b
    for k in range(draws):
        torch.testing.assert_close(state_ND[k * b + 3], by_itself.towers.states(learner._weight)["answer"][0])
        torch.testing.assert_close(state_ND[k * b + 1], state_ND[k * b + 4])
    assert np.isfinite(trainer.step(mixed)["loss"])


def test_some_queries_are_left_out_row_by_row(make_rows) -> None:
    rows = make_rows(users=400).append_column("query", pa.array(["why?"] * 300 + [None] * 100))
    assert without_some_queries(rows, 0.0, 1) is rows
    some, again, other = (without_some_queries(rows, 0.25, seed)["query"].to_pylist() for seed in (1, 1, 2))
    assert some == again != other
    left = sum(query is None for query in some) - 100
    assert 50 < left < 100  # 75 of 300, and four standard deviations around
    assert without_some_queries(rows.slice(7, 50), 0.25, 1)["query"].to_pylist() == some[7:57]
    assert without_some_queries(rows, 1.0, 1)["query"].null_count == 400


def test_an_answer_that_is_longer_than_the_backbone_can_take_is_refused(make_trainer, make_rows) -> None:
    """The tiny decoder has 512 positions, and a token per byte; with EOS that is one too many."""
    trainer = make_trainer(answer=AnswerConfig(form="text"))
    fits, too_long = (
        make_rows(users=2).append_column("answer", pa.array(["yes", "n" * length])) for length in (511, 512)
    )
    trainer.step(fits)
    with pytest.raises(InputError, match=r"a row has 513 tokens, .* takes at most 512"):
        trainer.step(too_long)


def test_every_draw_of_a_future_is_a_positive(make_trainer) -> None:
    one, three = (make_trainer(answer=AnswerConfig(max_events=3, draws=draws)) for draws in (1, 3))
    rows = one.pairs.batch(0)
    b, answers = len(rows), draw_answers(rows, three.learner.collator, three.config.answer, 0)
    first = draw_answers(rows, one.learner.collator, one.config.answer, 0)
    assert np.array_equal(answers.id_N[:b], first.id_N)
    assert np.array_equal(answers.sequences.length_B[:b], first.sequences.length_B)
    several = np.array([len(future) for future in rows["future"].to_pylist()]) > 3
    assert several.any()
    assert (answers.id_N[b : 2 * b] != answers.id_N[:b])[several].any(), "another draw takes other events"

    part = three.learner._part(rows)
    states = part.towers.states(three.learner._weight)
    by_hand = [
        info_nce(gathered(states["user"], answer_bD, part.user_ids_b, True, None, ids_b), three.config.objective).item()
        for answer_bD, ids_b in zip(states["answer"].split(b), part.answer_ids_N.split(b), strict=True)
    ]
    assert len(by_hand) == 3
    assert three.step(rows)["loss"] == pytest.approx(np.mean(by_hand), rel=1e-5)


@pytest.mark.parametrize("timing", ["two_pass", "frozen_tower"])
def test_gradient_passes_against_a_double_run_by_hand(timing, make_trainer) -> None:
    """The extra pass gives the importance that a separate encoder observes on the same rows."""
    mask = {"smoothing": 0.0, "warmup_share": 0.9}
    extra, by_hand = make_trainer(mask={**mask, "timing": timing}), make_trainer(mask=mask)
    start = weights(by_hand)
    for index in range(3):
        twin = by_hand if timing == "two_pass" else make_trainer(mask=mask)
        if timing == "frozen_tower":
            assert all(torch.equal(start[name], weight) for name, weight in weights(twin).items())
            twin.learner.recipe.load_state_dict(by_hand.learner.recipe.state_dict())
            twin.learner.bundle = by_hand.learner.bundle
        rows = twin.pairs.batch(index)
        for trainer in (twin, by_hand):
            trainer.learner.encoder.train()
        twin.learner._backward(twin.learner._part(rows), Wanted(None, None), twin.learner._observers)
        twin.learner.recipe.end_step(lambda tensor: tensor)
        by_hand.learner.recipe.load_state_dict(twin.learner.recipe.state_dict())
        by_hand.optimizer.zero_grad(set_to_none=True)
        loss = by_hand.learner._backward(by_hand.learner._part(rows), Wanted(None, None), lambda tokens: ()).loss
        assert step(extra)["loss"] == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(extra.learner.recipe.importance_S, by_hand.learner.recipe.importance_S)
        set_learning_rate(by_hand.optimizer, by_hand.config.optimizer, index, STEPS)
        by_hand._update(rows)
        by_hand.learner.bundle = extra.learner.bundle.__class__(**{**vars(by_hand.learner.bundle), "step": index + 1})
        for name, weight in weights(by_hand).items():
            torch.testing.assert_close(weight, weights(extra)[name])


def things(text: str) -> set[tuple[str, str]]:
    """(modality, thing with its number) of a rendered answer."""
    parts = [part.split(": ") for part in text.rstrip(".").split(". ")] if text != "nothing" else []
    return {(name, thing) for name, list_ in parts for thing in list_.split(", ")}


def test_an_aggregated_answer_tells_how_often_its_things_happened_in_the_whole_future(make_rows) -> None:
    """Counted first and drawn then (paper, 3.1): the numbers are those of the future, not of what was drawn."""
    rows, modalities = make_rows(users=40, most=40), (Modality("bill", 3), Modality("app", 3))
    seed_N = np.zeros(len(rows), dtype=np.uint64)
    truth: list[set[tuple[str, str]]] = []
    for future in rows["future"].to_pylist():
        counts: dict[tuple[str, str], int] = {}
        for event in future:
            counts[event["modality"], event["text"]] = counts.get((event["modality"], event["text"]), 0) + 1
        truth.append({(m, t if n == 1 else f"{t} x{n}") for (m, t), n in counts.items()})
    assert [things(text) for text in aggregated(rows, modalities, 1000, seed_N)] == truth
    drawn = aggregated(rows, modalities, 4, seed_N)
    for text, whole in zip(drawn, truth, strict=True):
        assert things(text) <= whole
        assert len(things(text)) == min(4, len(whole))
    assert aggregated(rows.slice(5, 2), modalities, 4, seed_N[:2]) == drawn[5:7]
    assert aggregated(rows, modalities, 4, seed_N + np.uint64(1)) != drawn
    with pytest.raises(ValueError, match="aggregated: only answers with form: text"):
        AnswerConfig(aggregated=True)

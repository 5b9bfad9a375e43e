"""Several real gloo processes against one: the same loss and gradients, and for every recipe the same training."""

import os
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ray_ggsm.masks import RecipeConfig
from ray_ggsm.masks.ggsm import GGSMConfig
from ray_ggsm.model.batch import Collator
from ray_ggsm.model.config import BagConfig, FusionConfig, ProjectionConfig
from ray_ggsm.training import loop
from ray_ggsm.training.answers import AnswerConfig
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.contrastive import Contrastive
from ray_ggsm.training.loop import Trainer
from ray_ggsm.training.loss import Objective, gathered, info_nce
from ray_ggsm.training.old_space import OldSpaceConfig
from ray_ggsm.training.pairs import Pairs, head
from ray_ggsm.training.targets import TargetsConfig
from ray_ggsm.training.workers import ALONE, Workers, process_group
from tests.helpers.encoders import RECIPES, encoder_on, lookup, nominal_peak, old_space
from tests.helpers.rows import user_rows

ROWS, BATCH, STEPS = 41, 11, 3  # a batch that neither 2 nor 3 workers divide
WIDTH, OUT = 7, 5
RECIPES_TRAINED = [mask for mask in RECIPES if mask.build().trains]
Q_ANCHOR = GGSMConfig(recipe="ggsm", total_steps=10)
"""Mask of one more run, which has summaries, a projection and a next-token loss."""


def contrast(workers: Workers, users: torch.Tensor, answers: torch.Tensor, ids: torch.Tensor, centre: bool):
    """Loss, and gradient of a linear layer that both sides go through."""
    layer = torch.nn.Linear(WIDTH, OUT)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, WIDTH * OUT).reshape(OUT, WIDTH))
        layer.bias.fill_(0.1)
    part = slice(*(round(len(users) * r / workers.size) for r in (workers.rank, workers.rank + 1)))
    sides = gathered(layer(users[part]), layer(answers[part]), ids[part], centre, workers.gather)
    loss = info_nce(sides, Objective(temperature=0.1, margin=0.05))
    loss.backward()
    return [loss.detach(), workers.reduce(layer.weight.grad), workers.reduce(layer.bias.grad)]


def contrasts(workers: Workers) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for rows, centre in ((BATCH, False), (BATCH, True), (4, True)):
        users, answers = (torch.randn(rows, WIDTH, generator=generator) for _ in range(2))
        found += contrast(workers, users, answers, torch.arange(rows) // 2, centre)
    return found


def train(workers: Workers, decoder: str, mask: RecipeConfig, rows: str, q_anchor: bool = False) -> dict[str, Any]:
    options = {"summary_tokens": True, "projection": ProjectionConfig(hidden=9, width=6)} if q_anchor else {}
    words = {"ntp_weight": 0.5, "answer": AnswerConfig(form="text", max_events=4)} if q_anchor else {}
    bag = BagConfig(contents=30, least_rows=2, width=4, dropout=0)
    fusion = FusionConfig(width=5, hidden=6, dropout=0, bag=bag)
    bundle = encoder_on(decoder, mask, pooling="mean", fusion=fusion, **options)
    config = TrainingConfig(
        steps=STEPS,
        batch_size=BATCH,
        centre_rows=20,
        tokens_per_micro_batch=90,
        graph_tokens=90,
        targets=TargetsConfig(horizons_days=(7, 80)),
        old_space=OldSpaceConfig(encoder="older", weight=0.5),
        **words,
    )
    pairs = Pairs(rows, BATCH, 0)
    collator = Collator(bundle.encoder.template, bundle.tokenizer, lookup)
    older = old_space(bundle.encoder.vector_width)
    learner = Contrastive(bundle, collator, config, workers, 0, head=head(rows, 30), future_days=80, old_space=older)
    trainer = Trainer(learner, config, workers)
    learner.prepare()
    while not trainer.done:
        trainer.step(pairs.batch(learner.step, workers.rank, workers.size))
    state = {name: p.detach() for name, p in learner.parameters().items()}
    logs = [{k: v for k, v in log.items() if k not in ("tokens", "seconds", "utilisation")} for log in trainer.log]
    return {"state": state, "recipe": learner.recipe.state_dict(), "log": logs}


def together(rank: int, size: int, folder: str, decoder: str, masks: list[RecipeConfig]) -> None:
    torch.set_num_threads(1)
    loop.peak_flops = nominal_peak
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    workers = process_group()
    found = {"contrasts": contrasts(workers), "runs": [train(workers, decoder, mask, folder) for mask in masks]}
    if masks:
        found["runs"].append(train(workers, decoder, Q_ANCHOR, folder, q_anchor=True))
    torch.save(found, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def run(size: int, folder: Path, decoder: str, masks: Sequence[RecipeConfig] = ()) -> list[dict[str, Any]]:
    """What each worker found; all workers come out of one process that has imported this module."""
    get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(together, (size, str(folder), decoder, list(masks)), nprocs=size, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of rows to train on, and of what two workers leave behind."""
    folder = tmp_path_factory.mktemp("two")
    pq.write_table(user_rows(users=ROWS), folder / "rows.parquet", row_group_size=9)
    return folder


@pytest.fixture(scope="module")
def two(folder: Path, tiny_decoder: str) -> list[dict[str, Any]]:
    """What two workers found, on all recipes."""
    return run(2, folder, tiny_decoder, RECIPES_TRAINED)


@pytest.mark.parametrize("size", [2, 3])
def test_loss_and_gradients_are_those_of_one_worker_with_the_whole_batch(size, two, tiny_decoder, tmp_path) -> None:
    expected = contrasts(ALONE)
    for found in two if size == 2 else run(size, tmp_path, tiny_decoder):
        for one, other in zip(expected, found["contrasts"], strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "i", range(len(RECIPES_TRAINED) + 1), ids=[*(mask.recipe for mask in RECIPES_TRAINED), "q_anchor"]
)
def test_every_recipe_trains_on_two_workers_as_on_one(i, two, folder, tiny_decoder) -> None:
    mask = [*RECIPES_TRAINED, Q_ANCHOR][i]
    alone = train(ALONE, tiny_decoder, mask, str(folder), q_anchor=mask is Q_ANCHOR)
    assert ("loss_ntp" in alone["log"][0]) == (mask is Q_ANCHOR)
    first, second = (found["runs"][i] for found in two)
    for name, value in first["recipe"].items():
        assert torch.equal(value, second["recipe"][name]), name  # identical on every worker
        torch.testing.assert_close(value, alone["recipe"][name], rtol=1e-3, atol=1e-6)
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    for one, other in zip(alone["log"], first["log"], strict=True):
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key

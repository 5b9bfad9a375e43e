"""The contrastive training loop: plain PyTorch, one optimiser step at a time. Paper, section 4.

Steps: take this worker's rows of the global batch; run both towers in micro-batches of like length under the recipe's
mask (towers.py); InfoNCE over the states of all workers (loss.py); backward, in which GG-SM observes the user tower's
gradients; sum parameter gradients over workers; AdamW.

Legend: b rows of this worker, B rows of the global batch, D width.
"""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ray_ggsm.config import Config
from ray_ggsm.masks import Tokens
from ray_ggsm.model.batch import Collator, tabular_matrix
from ray_ggsm.model.encoder import Observe
from ray_ggsm.model.saved import Trained
from ray_ggsm.training import checkpoint
from ray_ggsm.training.answers import AnswerConfig
from ray_ggsm.training.loss import BatchStatistics, SameSide, Term, batch_statistics, info_nce
from ray_ggsm.training.mask_log import GradientNorms, MaskLog
from ray_ggsm.training.optimizer import OptimizerConfig, make_optimizer, set_learning_rate
from ray_ggsm.training.towers import Observers, Towers
from ray_ggsm.training.workers import Workers

HEAD_ROWS = 16_384
"""Training rows that tabular statistics are taken from."""


class TrainingConfig(Config):
    """The run: how long, on what, with which objective."""

    steps: int = Field(ge=1)
    """Optimiser steps; T_total of the mask recipes."""
    batch_size: int = Field(ge=2)
    """Pairs in the global batch, over all workers."""
    temperature: float = Field(0.05, gt=0)
    """tau of eq. 6-7."""
    margin: float = Field(0.1, ge=0)
    """c of eq. 8, the false-negative mask."""
    terms: tuple[Term, ...] = ("ua", "uu", "aa")
    """Kinds of negatives: user-answer, user-user, answer-answer."""
    same_side: SameSide = "literal"
    """Whether eq. 8 masks uu and aa negatives too (`literal`), or only ua ones (`unmasked`)."""
    answer: AnswerConfig = AnswerConfig()
    """The answer tower's input."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    tokens_per_micro_batch: int = Field(16_384, ge=1)
    """Padded tokens that one forward pass takes; less needs less memory."""
    graph_tokens: int = Field(65_536, ge=0)
    """Padded tokens of a worker's batch whose graphs are kept for the backward pass; the rest runs forward twice, with
    the same result (gradient caching), so that memory does not grow with `batch_size`."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints."""
    centre_rows: int = Field(1024, ge=2)
    """Training rows that the towers' centres are taken from when an encoder is saved."""


class DivergenceError(RuntimeError):
    """Training cannot go on; the message says what was seen and what to try."""


class Trainer:
    """One worker of a training run."""

    def __init__(
        self, trained: Trained, head: pa.Table, collator: Collator, config: TrainingConfig, workers: Workers, seed: int
    ) -> None:
        """`head`: training rows, the same on every worker, that statistics and centres are taken from."""
        self.trained, self.head, self.collator, self.config = trained, head, collator, config
        self.workers, self.seed = workers, seed
        self.encoder, self.recipe = trained.encoder, trained.recipe
        self.optimizer = make_optimizer(self.encoder, config.optimizer)
        self.frozen: dict[str, Tensor] = {}
        """the weights of step 0, where GG-SM takes its gradients from them"""
        if self.recipe.timing == "frozen_tower":
            self.frozen = {name: p.detach().clone() for name, p in self.encoder.trainable().items()}
        self.log: list[dict[str, float]] = []
        """what each step looked like"""
        self.mask_log = MaskLog(self.encoder.template, self.recipe, config.steps)

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return not self.recipe.trains or self.trained.step >= self.config.steps

    def prepare(self) -> None:
        """Before the first step: tabular statistics and the untrained towers' centres, from training rows."""
        if self.encoder.tabular is not None:
            self.encoder.tabular.fit(tabular_matrix(self.head).to(self.encoder.device))
        self.centre()

    def step(self, rows: pa.Table) -> dict[str, float]:
        """One optimiser step on this worker's `rows` of the global batch; returns what it looked like.

        Raises:
            DivergenceError: the loss is not finite, or both towers collapsed to one point.
        """
        started, step = time.perf_counter(), self.trained.step
        self.encoder.train()
        rate = set_learning_rate(self.optimizer, self.config.optimizer, step, self.config.steps)
        towers = self._towers(rows)
        observe = self.recipe.wants_gradients(step)
        if observe and self.recipe.timing != "previous_step":
            self._probe(towers, rows)
            observe = False
        norms = GradientNorms(self.encoder.template)
        self.optimizer.zero_grad(set_to_none=True)
        loss, seen = self._backward(
            towers, rows, lambda tokens: [norms.observer(tokens), *(self._observers(tokens) if observe else [])]
        )
        mask = self.mask_log.step(step)
        self.recipe.end_step(self.workers.reduce)
        norm = self._update()
        self.trained = replace(self.trained, step=step + 1)
        metrics = {
            "step": step + 1, "loss": loss, "accuracy": seen.accuracy, "mean_rank": seen.mean_rank,
            "cos_positive": seen.positive, "cos_negative": seen.negative,
            **{f"masked_{term}": share for term, share in seen.masked.items()},
            "learning_rate": rate, "grad_norm": norm, **norms.means(self.workers, self.encoder.device), **mask,
            "tokens": float(towers.n_tokens), "seconds": time.perf_counter() - started,
        }  # fmt: skip
        self.log.append(metrics)
        return metrics

    def centre(self) -> None:
        """Freeze the towers' means as they are now, under the mask that embedding would use."""
        if not self.encoder.config.centre:
            return
        self.encoder.eval()
        states = self._towers(self.head.slice(0, self.config.centre_rows)).states(self.trained.embedding_weight)
        self.encoder.centre_user_D.copy_(states["user"].mean(dim=0))
        self.encoder.centre_answer_D.copy_(states["answer"].mean(dim=0))

    def save(self, directory: str) -> None:
        """Write a checkpoint into a local directory; it is a saved encoder, too."""
        self.centre()
        checkpoint.write(directory, self.trained, self.optimizer, self.log, self.mask_log.weight)

    def restore(self, directory: str) -> None:
        """Go on from a checkpoint."""
        step, self.log, self.mask_log.weight = checkpoint.read(directory, self.trained, self.optimizer)
        self.trained = replace(self.trained, step=step)

    def _towers(self, rows: pa.Table) -> Towers:
        step = self.trained.step
        return Towers(
            self.encoder, self.collator, rows,
            answer=self.config.answer, tokens_per_micro_batch=self.config.tokens_per_micro_batch,
            seed=((self.seed * 1_000_003 + step) * self.workers.size + self.workers.rank) * 1_000_003,
            answer_seed=self.seed + step,
        )  # fmt: skip

    def _backward(self, towers: Towers, rows: pa.Table, observers: Observers) -> tuple[float, BatchStatistics]:
        """Loss and gradients of the global batch; returns the loss, and what the batch looks like."""
        step, c = self.trained.step, self.config
        ids_b = user_ids(rows).to(self.encoder.device)
        arguments: dict[str, Any] = {
            "margin": c.margin, "terms": c.terms, "same_side": c.same_side,
            "centre": self.encoder.config.centre, "gather": self.workers.gather,
        }  # fmt: skip
        results: list[tuple[float, BatchStatistics]] = []

        def loss_of(user_bD: Tensor, answer_bD: Tensor) -> Tensor:
            loss = info_nce(user_bD, answer_bD, ids_b, temperature=c.temperature, **arguments)
            seen = batch_statistics(user_bD, answer_bD, ids_b, **arguments)
            self._check(loss.item(), seen.positive, seen.negative)
            results.append((loss.item(), seen))
            return loss

        towers.backward(lambda tokens: self.recipe.future_weight(tokens, step), loss_of, c.graph_tokens, observers)
        return results[0]

    def _probe(self, towers: Towers, rows: pa.Table) -> None:
        """A forward and backward pass that only feeds `observe`, by the encoder as it is or as it was at step 0."""
        parameters = self.encoder.trainable()
        now = {name: p.data for name, p in parameters.items()}
        for name, value in self.frozen.items():
            parameters[name].data = value
        self._backward(towers, rows, self._observers)
        for name, value in now.items():
            parameters[name].data = value
        self.recipe.end_step(self.workers.reduce)

    def _observers(self, tokens: Tokens) -> Sequence[Observe]:
        assert self.recipe.grad_site is not None
        return [Observe(self.recipe.grad_site, partial(self.recipe.observe, tokens=tokens, step=self.trained.step))]

    def _update(self) -> float:
        """Sum gradients over workers, clip, step; returns the gradient norm before clipping."""
        parameters = list(self.encoder.trainable().values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.workers.size > 1:
                parameter.grad = self.workers.reduce(parameter.grad)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
        self.optimizer.step()
        return float(norm)

    def _check(self, loss: float, positive: float, negative: float) -> None:
        step = self.trained.step
        if not math.isfinite(loss):
            raise DivergenceError(f"step {step}: the loss is {loss}; try a lower training.optimizer.learning_rate")
        if min(positive, negative) > 0.9999:
            raise DivergenceError(
                f"step {step}: both towers collapsed to one point (all cosines are 1, loss {loss:.4f}); try a lower"
                " training.optimizer.learning_rate, or model.centre: true"
            )


def user_ids(rows: pa.Table) -> Tensor:
    """int64 (b,): equal for rows of the same user, on every worker."""
    digests = [hashlib.blake2b(user.encode(), digest_size=8).digest() for user in rows["user_id"].to_pylist()]
    return torch.from_numpy(np.frombuffer(b"".join(digests), dtype="<i8").copy())

"""The contrastive training loop: plain PyTorch, one optimiser step at a time. Paper, section 4.

Steps: take this worker's rows of the global batch; run both towers in micro-batches of like length under the recipe's
mask; gather the pooled states of all workers; centre them; InfoNCE; one backward pass, in which GG-SM observes the
user tower's gradients; sum parameter gradients over workers; AdamW.

Legend: b rows of this worker, B rows of the global batch, D width.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from ray_ggsm.config import Config
from ray_ggsm.masks import Tokens
from ray_ggsm.model.batch import Batch, Collator, history_events, tabular_matrix
from ray_ggsm.model.encoder import Observe
from ray_ggsm.model.planning import batches_by_length
from ray_ggsm.model.saved import Trained
from ray_ggsm.training import checkpoint
from ray_ggsm.training.answers import AnswerConfig, answer_batch
from ray_ggsm.training.loss import BatchStatistics, SameSide, Term, batch_statistics, info_nce
from ray_ggsm.training.optimizer import OptimizerConfig, make_optimizer, set_learning_rate
from ray_ggsm.training.pairs import Pairs
from ray_ggsm.training.workers import Workers

STATISTICS_ROWS = 16_384
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
    checkpoint_every: int = Field(500, ge=1)
    """Steps between checkpoints."""
    centre_rows: int = Field(1024, ge=2)
    """Training rows that the towers' centres are taken from when an encoder is saved."""


class DivergenceError(RuntimeError):
    """Training cannot go on; the message says what was seen and what to try."""


class Trainer:
    """One worker of a training run."""

    def __init__(
        self, trained: Trained, pairs: Pairs, collator: Collator, config: TrainingConfig, workers: Workers, seed: int
    ) -> None:
        self.trained, self.pairs, self.collator, self.config = trained, pairs, collator, config
        self.workers, self.seed = workers, seed
        self.encoder, self.recipe = trained.encoder, trained.recipe
        self.optimizer = make_optimizer(self.encoder, config.optimizer)
        self.frozen: dict[str, Tensor] = {}
        """the weights of step 0, where GG-SM takes its gradients from them"""
        if self.recipe.timing == "frozen_tower":
            self.frozen = {name: p.detach().clone() for name, p in self.encoder.trainable().items()}
        self.log: list[dict[str, float]] = []
        """what each step looked like"""

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.trained.step >= self.config.steps

    def prepare(self) -> None:
        """Before the first step: tabular statistics and the untrained towers' centres, from training rows."""
        if self.encoder.tabular is not None:
            self.encoder.tabular.fit(tabular_matrix(self.pairs.head(STATISTICS_ROWS)).to(self.encoder.device))
        self.centre()

    def step(self) -> dict[str, float]:
        """One optimiser step; returns what it looked like.

        Raises:
            DivergenceError: the loss is not finite, or both towers collapsed to one point.
        """
        started, step = time.perf_counter(), self.trained.step
        self.encoder.train()
        torch.manual_seed((self.seed * 1_000_003 + step) * self.workers.size + self.workers.rank)  # dropout
        rate = set_learning_rate(self.optimizer, self.config.optimizer, step, self.config.steps)
        rows = self.pairs.batch(step, self.workers.rank, self.workers.size)
        observe = self.recipe.wants_gradients(step)
        if observe and self.recipe.timing != "previous_step":
            self._probe(rows)
            observe = False
        loss, seen, tokens = self._loss(rows, observe)
        self._check(loss.item(), seen.positive, seen.negative)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.recipe.end_step(self.workers.reduce)
        norm = self._update()
        self.trained = replace(self.trained, step=step + 1)
        metrics = {
            "step": step + 1, "loss": loss.item(), "accuracy": seen.accuracy, "mean_rank": seen.mean_rank,
            "cos_positive": seen.positive, "cos_negative": seen.negative,
            **{f"masked_{term}": share for term, share in seen.masked.items()},
            "learning_rate": rate, "grad_norm": norm, **self._mask_statistics(step),
            "tokens": float(tokens), "seconds": time.perf_counter() - started,
        }  # fmt: skip
        self.log.append(metrics)
        return metrics

    @torch.inference_mode()
    def centre(self) -> None:
        """Freeze the towers' means as they are now, under the mask that embedding would use."""
        if not self.encoder.config.centre:
            return
        self.encoder.eval()
        rows = self.pairs.head(self.config.centre_rows)
        self.encoder.centre_user_D.copy_(self._users(rows, observe=False, inference=True)[0].mean(dim=0))
        self.encoder.centre_answer_D.copy_(self._answers(rows, inference=True)[0].mean(dim=0))

    def save(self, directory: str) -> None:
        """Write a checkpoint into a local directory; it is a saved encoder, too."""
        self.centre()
        checkpoint.write(directory, self.trained, self.optimizer, self.log)

    def restore(self, directory: str) -> None:
        """Go on from a checkpoint."""
        step, self.log = checkpoint.read(directory, self.trained, self.optimizer)
        self.trained = replace(self.trained, step=step)

    def _loss(self, rows: pa.Table, observe: bool) -> tuple[Tensor, BatchStatistics, int]:
        """The global batch's loss, what the batch looks like, and this worker's number of real tokens."""
        user_bD, user_tokens = self._users(rows, observe)
        answer_bD, answer_tokens = self._answers(rows)
        user_BD, answer_BD = self.workers.gather(user_bD), self.workers.gather(answer_bD)
        if self.encoder.config.centre:
            user_BD, answer_BD = user_BD - user_BD.mean(dim=0), answer_BD - answer_BD.mean(dim=0)
        ids_B = self.workers.gather(user_ids(rows).to(self.encoder.device))
        c = self.config
        loss = info_nce(
            user_BD, answer_BD, ids_B,
            temperature=c.temperature, margin=c.margin, terms=c.terms, same_side=c.same_side,
        )  # fmt: skip
        seen = batch_statistics(user_BD, answer_BD, ids_B, margin=c.margin, terms=c.terms, same_side=c.same_side)
        return loss, seen, user_tokens + answer_tokens

    def _probe(self, rows: pa.Table) -> None:
        """A forward and backward pass that only feeds `observe`, by the encoder as it is or as it was at step 0."""
        parameters = self.encoder.trainable()
        now = {name: p.data for name, p in parameters.items()}
        for name, value in self.frozen.items():
            parameters[name].data = value
        self._loss(rows, observe=True)[0].backward()
        for name, value in now.items():
            parameters[name].data = value
        self.recipe.end_step(self.workers.reduce)

    def _users(self, rows: pa.Table, observe: bool, inference: bool = False) -> tuple[Tensor, int]:
        """Pooled states (b, D) in the rows' order, and the number of real tokens."""
        lengths = history_events(rows, self.encoder.template).count_MB.sum(axis=0) + len(self.encoder.template.tags)
        return self._pooled(rows, lengths, self.collator.users, observe, inference)

    def _answers(self, rows: pa.Table, inference: bool = False) -> tuple[Tensor, int]:
        build = partial(
            answer_batch, collator=self.collator, config=self.config.answer, seed=self.seed + self.trained.step
        )
        lengths = rows["future"].combine_chunks().value_lengths().fill_null(0).to_numpy()
        return self._pooled(rows, np.minimum(lengths, self.config.answer.max_events), build, False, inference)

    def _pooled(
        self, rows: pa.Table, length_b: np.ndarray, build: Callable[[pa.Table], Batch], observe: bool, inference: bool
    ) -> tuple[Tensor, int]:
        plan = batches_by_length(length_b + len(self.encoder.template.tags), self.config.tokens_per_micro_batch)
        step, parts, n_tokens = self.trained.step, [], 0
        for chosen in plan:
            batch = build(rows.take(pa.array(chosen))).to(self.encoder.device)
            tokens = batch.layout.tokens
            weight = self.trained.embedding_weight(tokens) if inference else self.recipe.future_weight(tokens, step)
            see = self._observe(tokens) if observe else None
            parts.append(self.encoder(batch, weight, see))
            n_tokens += batch.n_tokens
        back = torch.from_numpy(np.argsort(np.concatenate(plan))).to(self.encoder.device)
        return torch.cat(parts)[back], n_tokens

    def _observe(self, tokens: Tokens) -> Observe:
        assert self.recipe.grad_site is not None
        return Observe(self.recipe.grad_site, partial(self.recipe.observe, tokens=tokens, step=self.trained.step))

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

    def _mask_statistics(self, step: int) -> dict[str, float]:
        """alpha, and the spread of w over one row that fills every slot once."""
        weight = self.recipe.future_weight(self.encoder.template.every_slot(), step)[0].float()
        p5, p95 = torch.quantile(weight, torch.tensor([0.05, 0.95])).tolist()
        return {"alpha": self.recipe.alpha(step), "w_mean": weight.mean().item(), "w_p5": p5, "w_p95": p95}


def user_ids(rows: pa.Table) -> Tensor:
    """int64 (b,): equal for rows of the same user, on every worker."""
    digests = [hashlib.blake2b(user.encode(), digest_size=8).digest() for user in rows["user_id"].to_pylist()]
    return torch.from_numpy(np.frombuffer(b"".join(digests), dtype="<i8").copy())

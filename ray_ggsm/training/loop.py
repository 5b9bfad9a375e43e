"""The contrastive training loop: plain PyTorch, one optimiser step at a time. Paper, section 4.

Steps: take this worker's rows of the global batch; run both towers in micro-batches of like length under the recipe's
mask (towers.py); InfoNCE over the states of all workers (loss.py); backward, in which GG-SM observes the user tower's
gradients; sum parameter gradients over workers; AdamW.

Legend: b rows of this worker, B rows of the global batch, D width.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.hashing import hash64
from ray_ggsm.masks import Tokens
from ray_ggsm.model.batch import Collator, tabular_matrix
from ray_ggsm.model.encoder import Observe
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.training import checkpoint
from ray_ggsm.training.checkpoint import Identity, Progress
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.flops import peak_flops, step_flops
from ray_ggsm.training.loss import BatchStatistics, batch_statistics, info_nce
from ray_ggsm.training.mask_log import GradientNorms, MaskLog
from ray_ggsm.training.optimizer import make_optimizer, set_learning_rate
from ray_ggsm.training.towers import Observers, Towers
from ray_ggsm.training.workers import Workers

HEAD_ROWS = 16_384
"""Training rows that tabular statistics are taken from."""


class DivergenceError(RuntimeError):
    """Training cannot go on; the message says what was seen and what to try."""

    rows: pa.Table | None = None
    """user_id and as_of of the worker's part of the batch where it happened"""


class Trainer:
    """One worker of a training run."""

    def __init__(
        self,
        bundle: EncoderBundle,
        collator: Collator,
        config: TrainingConfig,
        workers: Workers,
        seed: int,
        *,
        head: pa.Table,
        held_out: pa.Table | None = None,
        identity: Identity | None = None,
    ) -> None:
        """Both tables are the same on every worker.

        Args:
            trained: the encoder to train.
            collator: builds its batches.
            config: resolved settings.
            workers: this worker's place among all.
            seed: of dropout and of the answers that are drawn.
            head: training rows that statistics and centres are taken from.
            held_out: rows for the held-out loss.
            identity: what the run is made of, for its checkpoints.
        """
        self.held_out, self.identity = held_out, identity or {}
        self.bundle, self.head, self.collator, self.config = bundle, head, collator, config
        self.workers, self.seed = workers, seed
        self.encoder, self.recipe = bundle.encoder, bundle.recipe
        self.optimizer = make_optimizer(self.encoder, config.optimizer)
        self.frozen: dict[str, Tensor] = {}
        """the weights of step 0, where GG-SM takes its gradients from them"""
        if self.recipe.timing == "frozen_tower":
            self.frozen = {name: p.detach().clone() for name, p in self.encoder.trainable().items()}
        self.log: list[dict[str, float]] = []
        """what each step looked like"""
        self.mask_log = MaskLog(self.encoder.template, self.recipe, config.total_steps)
        self.peak = peak_flops(self.encoder.device, self.encoder.config.torch_dtype)
        if config.activation_checkpointing:
            self.encoder.backbone.activation_checkpointing_enable({"use_reentrant": False})

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the held-out loss has not improved for too long."""
        return not self.recipe.trains or self.bundle.step >= self.config.total_steps or self._stalled()

    def _stalled(self) -> bool:
        patience = self.config.held_out.patience if self.config.held_out else None
        losses = [entry["held_out_loss"] for entry in self.log if "held_out_loss" in entry]
        if patience is None or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= patience

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
        started, step = time.perf_counter(), self.bundle.step
        self.encoder.train()
        rate = set_learning_rate(self.optimizer, self.config.optimizer, step, self.config.total_steps)
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
        norm = self._update(rows)
        seconds = time.perf_counter() - started
        utilisation = step_flops(self.encoder, towers.length_N) / seconds / self.peak
        self.bundle = replace(self.bundle, step=step + 1)
        metrics = {
            "step": step + 1, "loss": loss, "accuracy": seen.accuracy, "mean_rank": seen.mean_rank,
            "cos_positive": seen.positive, "cos_negative": seen.negative,
            **{f"masked_{term}": share for term, share in seen.masked.items()},
            "learning_rate": rate, "grad_norm": norm, **norms.means(self.workers, self.encoder.device), **mask,
            "temperature": self.config.temperature, "tokens": float(towers.length_N.sum()), "seconds": seconds,
            "utilisation": utilisation,
        }  # fmt: skip
        if self.held_out is not None and ((step + 1) % self.config.checkpoint_every == 0 or self.done):
            metrics |= self._look(self.held_out)
        self.log.append(metrics)
        return metrics

    def centre(self) -> None:
        """Freeze the towers' means as they are now, under the mask that embedding would use."""
        if not self.encoder.config.centre:
            return
        self.encoder.eval()
        states = self._towers(self.head.slice(0, self.config.centre_rows)).states(self.bundle.embedding_weight)
        self.encoder.centre_user_D.copy_(states["user"].mean(dim=0))
        self.encoder.centre_answer_D.copy_(states["answer"].mean(dim=0))

    def save(self, directory: str) -> None:
        """Write a checkpoint into a local directory; it is a saved encoder, too."""
        self.centre()
        progress = Progress(self.bundle.step, self.log, self.mask_log.weight)
        checkpoint.write(directory, self.bundle, self.optimizer, progress, self.identity)

    def restore(self, directory: str) -> None:
        """Go on from a checkpoint; errors as `ray_ggsm.training.checkpoint.read`."""
        progress = checkpoint.read(directory, self.bundle, self.optimizer, self.identity)
        self.log, self.mask_log.weight = progress.log, progress.mask_weight
        self.bundle = replace(self.bundle, step=progress.step)

    def _towers(self, rows: pa.Table, answer_seed: int | None = None) -> Towers:
        step = self.bundle.step
        return Towers(
            self.encoder, self.collator, rows,
            answer=self.config.answer, tokens_per_micro_batch=self.config.tokens_per_micro_batch,
            seed=((self.seed * 1_000_003 + step) * self.workers.size + self.workers.rank) * 1_000_003,
            answer_seed=self.seed + step if answer_seed is None else answer_seed,
        )  # fmt: skip

    def _backward(self, towers: Towers, rows: pa.Table, observers: Observers) -> tuple[float, BatchStatistics]:
        """Loss and gradients of the global batch; returns the loss, and what the batch looks like."""
        results: list[tuple[float, BatchStatistics]] = []

        def loss_of(user_bD: Tensor, answer_bD: Tensor) -> Tensor:
            loss, seen = self._contrast(user_bD, answer_bD, rows)
            self._check(loss.item(), seen.positive, seen.negative, rows)
            results.append((loss.item(), seen))
            return loss

        towers.backward(self._weight, loss_of, self.config.graph_tokens, observers)
        return results[0]

    def _contrast(self, user_bD: Tensor, answer_bD: Tensor, rows: pa.Table) -> tuple[Tensor, BatchStatistics]:
        """Loss of the global batch, with its graph, and what the batch looks like."""
        ids_b, c = user_ids(rows).to(self.encoder.device), self.config
        arguments: dict[str, Any] = {
            "margin": c.margin, "terms": c.terms, "same_side": c.same_side,
            "centre": self.encoder.config.centre, "gather": self.workers.gather,
        }  # fmt: skip
        loss = info_nce(user_bD, answer_bD, ids_b, temperature=c.temperature, **arguments)
        return loss, batch_statistics(user_bD, answer_bD, ids_b, **arguments)

    def _look(self, held_out: pa.Table) -> dict[str, float]:
        """The held-out pairs under the mask of the next step, as one batch of all workers."""
        self.encoder.eval()
        rows = held_out.slice(*self.workers.share(len(held_out)))
        states = self._towers(rows, answer_seed=self.seed).states(self._weight)
        loss, seen = self._contrast(states["user"], states["answer"], rows)
        return {
            "held_out_loss": loss.item(),
            "held_out_accuracy": seen.accuracy,
            "held_out_mean_rank": seen.mean_rank,
        }

    def _weight(self, tokens: Tokens) -> Tensor:
        return self.recipe.future_weight(tokens, self.bundle.step)

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
        return [Observe(self.recipe.grad_site, partial(self.recipe.observe, tokens=tokens, step=self.bundle.step))]

    def _update(self, rows: pa.Table) -> float:
        """Sum gradients over workers, clip, step; returns the gradient norm before clipping."""
        parameters = list(self.encoder.trainable().values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.workers.size > 1:
                parameter.grad = self.workers.reduce(parameter.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm))
        if not math.isfinite(norm):
            self._stop(f"the gradient's norm is {norm}; try a lower training.optimizer.learning_rate", rows)
        self.optimizer.step()
        return norm

    def _check(self, loss: float, positive: float, negative: float, rows: pa.Table) -> None:
        if not math.isfinite(loss):
            self._stop(f"the loss is {loss}; try a lower training.optimizer.learning_rate", rows)
        if min(positive, negative) > 0.9999:
            self._stop(
                f"both towers collapsed to one point (all cosines are 1, loss {loss:.4f}); try a lower"
                " training.optimizer.learning_rate, or model.centre: true",
                rows,
            )

    def _stop(self, sentence: str, rows: pa.Table) -> None:
        error = DivergenceError(f"step {self.bundle.step}: {sentence}")
        error.rows = rows.select(["user_id", "as_of"])
        raise error


def user_ids(rows: pa.Table) -> Tensor:
    """int64 (b,): equal for rows of the same user, on every worker."""
    return torch.from_numpy(hash64(rows["user_id"]).view(np.int64).copy())

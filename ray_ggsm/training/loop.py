"""The contrastive training loop: plain PyTorch, one optimiser step at a time. Paper, section 4.

Steps: take this worker's rows of the global batch; run both towers in micro-batches of similar length under the
recipe's mask (towers.py); compute InfoNCE over the states of all workers (loss.py); run backward, in which GG-SM
observes the user tower's gradients; sum parameter gradients over workers; update with AdamW.

Legend: b rows of this worker, B rows of the global batch, D width.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.hashing import hash64
from ray_ggsm.masks import Tokens
from ray_ggsm.model.batch import Collator, Sequences, tabular_matrix
from ray_ggsm.model.encoder import Observe, Tower
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.training import checkpoint
from ray_ggsm.training.answers import answer_sequences
from ray_ggsm.training.checkpoint import Identity, Progress
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.divergence import check_gradient, check_loss
from ray_ggsm.training.flops import peak_flops, step_flops
from ray_ggsm.training.loss import BatchStatistics, batch_statistics, gathered, info_nce
from ray_ggsm.training.mask_log import GradientNorms, MaskLog
from ray_ggsm.training.optimizer import make_optimizer, set_learning_rate
from ray_ggsm.training.towers import Observers, Towers
from ray_ggsm.training.workers import Workers

HEAD_ROWS = 16_384
"""Number of training rows that tabular statistics are taken from."""


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
        """Make the optimiser, and measure the device's speed.

        Args:
            bundle: the encoder to train.
            collator: builds its batches.
            config: resolved settings.
            workers: this worker's place among all.
            seed: seed of dropout and of the answers that are drawn.
            head: training rows that statistics and centres are taken from, the same on every worker.
            held_out: rows for the held-out loss, the same on every worker.
            identity: the parts of the run, for its checkpoints.
        """
        self.held_out, self.identity = held_out, identity or {}
        self.bundle, self.head, self.collator, self.config = bundle, head, collator, config
        self.workers, self.seed = workers, seed
        self.encoder, self.recipe = bundle.encoder, bundle.recipe
        self.optimizer = make_optimizer(self.encoder, config.optimizer)
        kept = self.encoder.trainable() if self.recipe.timing == "frozen_tower" else {}
        self.initial = {name: p.detach().clone() for name, p in kept.items()}
        """The weights of step 0, if GG-SM takes its gradients from them."""
        self.log: list[dict[str, float]] = []
        """Metrics of each step."""
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
        """Take tabular statistics and the untrained towers' centres from training rows, before the first step."""
        if self.encoder.tabular is not None:
            self.encoder.tabular.fit(tabular_matrix(self.head).to(self.encoder.device))
        self.centre()

    def step(self, rows: pa.Table) -> dict[str, float]:
        """Take one optimiser step on this worker's `rows` of the global batch; returns its metrics.

        Raises:
            DivergenceError: the loss or a gradient is not finite, or both towers collapsed to one point.
        """
        started, step = time.perf_counter(), self.bundle.step
        self.encoder.train()
        rate = set_learning_rate(self.optimizer, self.config.optimizer, step, self.config.total_steps)
        towers = self._towers(rows)
        observe = self.recipe.wants_gradients(step)
        if observe and self.recipe.timing != "previous_step":
            self._gradient_pass(towers, rows)
            observe = False
        norms = GradientNorms(self.encoder.template)
        self.optimizer.zero_grad(set_to_none=True)
        loss, statistics = self._backward(
            towers, rows, lambda tokens: [norms.observer(tokens), *(self._observers(tokens) if observe else [])]
        )
        mask = self.mask_log.step(step)
        self.recipe.end_step(self.workers.reduce)
        norm = self._update(rows)
        seconds = time.perf_counter() - started
        utilisation = step_flops(self.encoder, towers.length_N) / seconds / self.peak
        self.bundle = replace(self.bundle, step=step + 1)
        metrics = {
            "step": step + 1, "loss": loss, "accuracy": statistics.accuracy, "mean_rank": statistics.mean_rank,
            "cos_positive": statistics.positive, "cos_negative": statistics.negative,
            **{f"masked_{term}": share for term, share in statistics.masked.items()},
            "learning_rate": rate, "grad_norm": norm, **norms.means(self.workers, self.encoder.device), **mask,
            "temperature": self.config.temperature, "tokens": float(towers.length_N.sum()), "seconds": seconds,
            "utilisation": utilisation,
        }  # fmt: skip
        if self.held_out is not None and ((step + 1) % self.config.checkpoint_every == 0 or self.done):
            metrics |= self._held_out_metrics(self.held_out)
        self.log.append(metrics)
        return metrics

    def centre(self) -> None:
        """Set the towers' centres to their means over training rows, under the mask that embedding would use."""
        if not self.encoder.config.centre:
            return
        self.encoder.eval()
        states = self._towers(self.head.slice(0, self.config.centre_rows)).states(self.bundle.embedding_weight)
        self.encoder.centre_user_D.copy_(states["user"].mean(dim=0))
        self.encoder.centre_answer_D.copy_(states["answer"].mean(dim=0))

    def save(self, directory: str) -> None:
        """Write a checkpoint, which is a saved encoder, too, into a local directory."""
        self.centre()
        progress = Progress(self.bundle.step, self.log, self.mask_log.weight)
        checkpoint.write(directory, self.bundle, self.optimizer, progress, self.identity)

    def restore(self, directory: str) -> None:
        """Go on from a checkpoint; errors as in `ray_ggsm.training.checkpoint.read`."""
        progress = checkpoint.read(directory, self.bundle, self.optimizer, self.identity)
        self.log, self.mask_log.weight = progress.log, progress.mask_weight
        self.bundle = replace(self.bundle, step=progress.step)

    def _towers(self, rows: pa.Table, answer_seed: int | None = None) -> Towers:
        """Both towers over `rows`. Answers are drawn with a seed that is the same on every worker; dropout is not."""
        step = self.bundle.step
        seed = ((self.seed * 1_000_003 + step) * self.workers.size + self.workers.rank) * 1_000_003
        answers = answer_sequences(
            rows, self.collator, self.config.answer, self.seed + step if answer_seed is None else answer_seed
        )
        sequences: dict[Tower, Sequences] = {"user": self.collator.user_sequences(rows), "answer": answers}
        return Towers(self.encoder, sequences, self.config.tokens_per_micro_batch, seed)

    def _backward(self, towers: Towers, rows: pa.Table, observers: Observers) -> tuple[float, BatchStatistics]:
        """Add the gradients of the global batch; returns its loss and statistics."""
        results: list[tuple[float, BatchStatistics]] = []

        def loss_of(user_bD: Tensor, answer_bD: Tensor) -> Tensor:
            loss, statistics = self._contrast(user_bD, answer_bD, rows)
            check_loss(loss.item(), statistics, self.bundle.step, rows)
            results.append((loss.item(), statistics))
            return loss

        towers.backward(self._weight, loss_of, self.config.graph_tokens, observers)
        return results[0]

    def _contrast(self, user_bD: Tensor, answer_bD: Tensor, rows: pa.Table) -> tuple[Tensor, BatchStatistics]:
        """Loss of the global batch, with its graph, and the batch's statistics."""
        ids_b = user_ids(rows).to(self.encoder.device)
        sides = gathered(user_bD, answer_bD, ids_b, self.encoder.config.centre, self.workers.gather)
        return info_nce(sides, self.config.objective), batch_statistics(sides, self.config.objective)

    def _held_out_metrics(self, held_out: pa.Table) -> dict[str, float]:
        """Metrics of the held-out pairs under the mask of the next step, as one batch over all workers."""
        self.encoder.eval()
        rows = held_out.slice(*self.workers.share(len(held_out)))
        states = self._towers(rows, answer_seed=self.seed).states(self._weight)
        loss, statistics = self._contrast(states["user"], states["answer"], rows)
        return {
            "held_out_loss": loss.item(),
            "held_out_accuracy": statistics.accuracy,
            "held_out_mean_rank": statistics.mean_rank,
        }

    def _weight(self, tokens: Tokens) -> Tensor:
        return self.recipe.future_weight(tokens, self.bundle.step)

    def _gradient_pass(self, towers: Towers, rows: pa.Table) -> None:
        """Run forward and backward for `observe` only, with the encoder's present weights or those of step 0."""
        parameters = self.encoder.trainable()
        present = {name: p.data for name, p in parameters.items()}
        for name, value in self.initial.items():
            parameters[name].data = value
        self._backward(towers, rows, self._observers)
        for name, value in present.items():
            parameters[name].data = value
        self.recipe.end_step(self.workers.reduce)

    def _observers(self, tokens: Tokens) -> Sequence[Observe]:
        assert self.recipe.grad_site is not None
        return [Observe(self.recipe.grad_site, partial(self.recipe.observe, tokens=tokens, step=self.bundle.step))]

    def _update(self, rows: pa.Table) -> float:
        """Sum gradients over workers, clip them, and update; returns their norm before clipping."""
        parameters = list(self.encoder.trainable().values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.workers.size > 1:
                parameter.grad = self.workers.reduce(parameter.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm))
        check_gradient(norm, self.bundle.step, rows)
        self.optimizer.step()
        return norm


def user_ids(rows: pa.Table) -> Tensor:
    """A number per row that is the same for all rows of a user, on every worker, int64 (b,)."""
    return torch.from_numpy(hash64(rows["user_id"]).view(np.int64).copy())

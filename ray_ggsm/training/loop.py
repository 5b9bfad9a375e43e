"""The training loop: plain PyTorch, one optimiser step at a time, for every kind of encoder.

A step: set the learning rate; let the learner add the gradients of this worker's rows (`Contrastive` for the language
model); sum gradients over workers; clip them; update with AdamW.
"""

import time

import pyarrow as pa
import torch

from ray_ggsm.training import checkpoint
from ray_ggsm.training.checkpoint import Identity, Progress
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.divergence import check_gradient
from ray_ggsm.training.flops import peak_flops
from ray_ggsm.training.learner import Learner, Metrics
from ray_ggsm.training.optimizer import make_optimizer, set_learning_rate
from ray_ggsm.training.workers import Workers

HEAD_ROWS = 16_384
"""Number of training rows that statistics are taken from."""


class Trainer:
    """One worker of a training run."""

    def __init__(
        self,
        learner: Learner,
        config: TrainingConfig,
        workers: Workers,
        *,
        held_out: pa.Table | None = None,
        identity: Identity | None = None,
    ) -> None:
        """Make the optimiser, and measure the device's speed.

        Args:
            learner: the encoder to train.
            config: resolved settings.
            workers: this worker's place among all.
            held_out: rows for the held-out loss, the same on every worker.
            identity: the parts of the run, for its checkpoints.
        """
        self.learner, self.config, self.workers = learner, config, workers
        self.held_out, self.identity = held_out, identity or {}
        self.optimizer = make_optimizer(learner.parameters(), config.optimizer)
        self.log: list[Metrics] = []
        """Metrics of each step."""
        self.peak = peak_flops(learner.device, learner.product_dtype)

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the held-out loss has not improved for too long."""
        return not self.learner.trains or self.learner.step >= self.config.total_steps or self._stalled()

    def _stalled(self) -> bool:
        patience = self.config.held_out.patience if self.config.held_out else None
        losses = [entry["held_out_loss"] for entry in self.log if "held_out_loss" in entry]
        if patience is None or not losses:
            return False
        return len(losses) - 1 - losses.index(min(losses)) >= patience

    def step(self, rows: pa.Table) -> Metrics:
        """Take one optimiser step on this worker's `rows` of the global batch; returns its metrics.

        Raises:
            DivergenceError: the loss or a gradient is not finite, or vectors collapsed to one point.
        """
        started, step = time.perf_counter(), self.learner.step
        rate = set_learning_rate(self.optimizer, self.config.optimizer, step, self.config.total_steps)
        self.optimizer.zero_grad(set_to_none=True)
        found = self.learner.gradients(rows)
        norm = self._update(rows)
        seconds = time.perf_counter() - started
        utilisation = found.pop("flops") / seconds / self.peak
        self.learner.advance()
        metrics = {
            "step": step + 1, **found, "learning_rate": rate, "grad_norm": norm, "seconds": seconds,
            "utilisation": utilisation,
        }  # fmt: skip
        if self.held_out is not None and ((step + 1) % self.config.checkpoint_every == 0 or self.done):
            part = self.held_out.slice(*self.workers.share(len(self.held_out)))
            metrics |= {f"held_out_{name}": value for name, value in self.learner.held_out(part).items()}
        self.log.append(metrics)
        return metrics

    def save(self, directory: str) -> None:
        """Write a checkpoint, which is a saved encoder, too, into a local directory."""
        self.learner.settle()
        progress = Progress(self.learner.step, self.log, self.learner.record)
        checkpoint.write(directory, self.learner, self.optimizer, progress, self.identity)

    def restore(self, directory: str) -> None:
        """Go on from a checkpoint; errors as in `ray_ggsm.training.checkpoint.read`."""
        self.log = checkpoint.read(directory, self.learner, self.optimizer, self.identity).log

    def _update(self, rows: pa.Table) -> float:
        """Sum gradients over workers, clip them, and update; returns their norm before clipping."""
        parameters = self.learner.parameters()
        for name, parameter in parameters.items():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.workers.size > 1:
                # every worker has the heads' whole gradient, but only its own rows' part of the encoder's
                share = parameter.grad / self.workers.size if name.startswith("heads.") else parameter.grad
                parameter.grad = self.workers.reduce(share)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), self.config.optimizer.clip_norm))
        check_gradient(norm, self.learner.step, rows)
        self.optimizer.step()
        return norm

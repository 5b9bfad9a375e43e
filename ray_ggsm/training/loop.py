"""The contrastive training loop: plain PyTorch, one optimiser step at a time. Paper, section 4.

Steps: take this worker's rows of the global batch; run both towers in micro-batches of similar length under the
recipe's mask (towers.py); compute InfoNCE over the states of all workers (loss.py), and the losses of the dense targets
(targets.py); run backward, in which GG-SM observes the user tower's gradients; sum parameter gradients over workers;
update with AdamW.

Legend: b rows of this worker, N answers to them (one per row and draw), K draws, B rows of the global batch, D width.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from ray_ggsm.training.answers import draw_answers
from ray_ggsm.training.checkpoint import Identity, Progress, Trained, trained_parameters
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.divergence import check_gradient, check_loss
from ray_ggsm.training.flops import peak_flops, step_flops
from ray_ggsm.training.loss import BatchStatistics, batch_statistics, gathered, info_nce
from ray_ggsm.training.mask_log import GradientNorms, MaskLog
from ray_ggsm.training.optimizer import make_optimizer, set_learning_rate
from ray_ggsm.training.targets import Heads, TargetMaker, Targets
from ray_ggsm.training.towers import Observers, Towers
from ray_ggsm.training.workers import Workers

HEAD_ROWS = 16_384
"""Number of training rows that tabular statistics are taken from."""


@dataclass(frozen=True)
class _Part:
    """One worker's rows of a batch, b of them."""

    rows: pa.Table
    towers: Towers
    user_ids_b: Tensor
    answer_ids_N: Tensor
    """One per row and draw."""


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
        future_days: int | None = None,
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
            future_days: days that futures cover; needed for targets.
            identity: the parts of the run, for its checkpoints.
        """
        self.held_out, self.identity = held_out, identity or {}
        self.bundle, self.head, self.collator, self.config = bundle, head, collator, config
        self.workers, self.seed = workers, seed
        self.encoder, self.recipe = bundle.encoder, bundle.recipe
        self.make_targets, self.heads = self._targets(future_days)
        self.optimizer = make_optimizer(trained_parameters(bundle, self.heads), config.optimizer)
        kept = self.encoder.trainable() if self.recipe.timing == "frozen_tower" else {}
        self.initial = {name: p.detach().clone() for name, p in kept.items()}
        """The weights of step 0, if GG-SM takes its gradients from them."""
        self.log: list[dict[str, float]] = []
        """Metrics of each step."""
        self.mask_log = MaskLog(self.encoder.template, self.recipe, config.total_steps)
        self.peak = peak_flops(self.encoder.device, self.encoder.config.torch_dtype)
        if config.activation_checkpointing:
            self.encoder.backbone.activation_checkpointing_enable({"use_reentrant": False})

    def _targets(self, future_days: int | None) -> tuple[TargetMaker | None, Heads | None]:
        """What makes the dense targets, and the heads that predict them; None without targets."""
        if self.config.targets is None:
            return None, None
        assert future_days is not None, "targets need the length of futures"
        modalities, device = [m.name for m in self.encoder.template.modalities], self.encoder.device
        maker = TargetMaker(self.config.targets, modalities, future_days, self.head, device)
        return maker, Heads(self.encoder.vector_width, maker.widths, maker.prior, self.seed).to(self.encoder.device)

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
        """Take statistics of numbers and the untrained towers' centres from training rows, before the first step."""
        if self.encoder.tabular is not None:
            self.encoder.tabular.fit(tabular_matrix(self.head).to(self.encoder.device))
        if self.encoder.fields is not None:
            self.encoder.fields.fit(self.collator.numbers(self.head).to(self.encoder.device))
        self.centre()

    def step(self, rows: pa.Table) -> dict[str, float]:
        """Take one optimiser step on this worker's `rows` of the global batch; returns its metrics.

        Raises:
            DivergenceError: the loss or a gradient is not finite, or both towers collapsed to one point.
        """
        started, step = time.perf_counter(), self.bundle.step
        self.encoder.train()
        rate = set_learning_rate(self.optimizer, self.config.optimizer, step, self.config.total_steps)
        part = self._part(rows)
        observe = self.recipe.wants_gradients(step)
        if observe and self.recipe.timing != "previous_step":
            self._gradient_pass(part)
            observe = False
        norms = GradientNorms(self.encoder.template)
        self.optimizer.zero_grad(set_to_none=True)
        loss, statistics, parts = self._backward(
            part, lambda tokens: [norms.observer(tokens), *(self._observers(tokens) if observe else [])]
        )
        mask = self.mask_log.step(step)
        self.recipe.end_step(self.workers.reduce)
        norm = self._update(rows)
        seconds = time.perf_counter() - started
        utilisation = step_flops(self.encoder, part.towers.length_N) / seconds / self.peak
        self.bundle = replace(self.bundle, step=step + 1)
        metrics = {
            "step": step + 1, "loss": loss, "accuracy": statistics.accuracy, "mean_rank": statistics.mean_rank,
            "cos_positive": statistics.positive, "cos_negative": statistics.negative,
            **{f"masked_{term}": share for term, share in statistics.masked.items()}, **parts,
            "learning_rate": rate, "grad_norm": norm, **norms.means(self.workers, self.encoder.device), **mask,
            "temperature": self.config.temperature, "tokens": float(part.towers.length_N.sum()), "seconds": seconds,
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
        states = self._part(self.head.slice(0, self.config.centre_rows)).towers.states(self.bundle.embedding_weight)
        self.encoder.set_centres(states["user"], states["answer"])

    def save(self, directory: str) -> None:
        """Write a checkpoint, which is a saved encoder, too, into a local directory."""
        self.centre()
        progress = Progress(self.bundle.step, self.log, self.mask_log.weight)
        checkpoint.write(directory, self._trained(), progress, self.identity)

    def restore(self, directory: str) -> None:
        """Go on from a checkpoint; errors as in `ray_ggsm.training.checkpoint.read`."""
        progress = checkpoint.read(directory, self._trained(), self.identity)
        self.log, self.mask_log.weight = progress.log, progress.mask_weight
        self.bundle = replace(self.bundle, step=progress.step)

    def _trained(self) -> Trained:
        return Trained(self.bundle, self.heads, self.optimizer)

    def _part(self, rows: pa.Table, answer_seed: int | None = None) -> _Part:
        """This worker's part of a batch. Answers are drawn with a seed that all workers share; dropout is not."""
        step, device = self.bundle.step, self.encoder.device
        seed = ((self.seed * 1_000_003 + step) * self.workers.size + self.workers.rank) * 1_000_003
        answer_seed = self.seed + step if answer_seed is None else answer_seed
        answers = draw_answers(rows, self.collator, self.config.answer, answer_seed)
        sequences: dict[Tower, Sequences] = {"user": self.collator.user_sequences(rows), "answer": answers.sequences}
        towers = Towers(self.encoder, sequences, self.config.tokens_per_micro_batch, seed)
        return _Part(rows, towers, user_ids(rows).to(device), torch.from_numpy(answers.id_N).to(device))

    def _backward(self, part: _Part, observers: Observers) -> tuple[float, BatchStatistics, dict[str, float]]:
        """Add the gradients of the global batch; returns the same as `_loss`."""
        results: list[tuple[float, BatchStatistics, dict[str, float]]] = []
        targets = self._gathered_targets(part.rows)

        def loss_of(user_bW: Tensor, answer_ND: Tensor) -> Tensor:
            loss, statistics, parts = self._loss(user_bW, answer_ND, part, targets)
            check_loss(loss.item(), statistics, self.bundle.step, part.rows)
            results.append((loss.item(), statistics, parts))
            return loss

        part.towers.backward(self._weight, loss_of, self.config.graph_tokens, observers)
        return results[0]

    def _gathered_targets(self, rows: pa.Table) -> Targets | None:
        """The targets of the global batch; None without targets."""
        if self.make_targets is None:
            return None
        return Targets(*(self.workers.gather(part) for part in self.make_targets(rows).parts))

    def _loss(
        self, user_bW: Tensor, answer_ND: Tensor, part: _Part, targets: Targets | None
    ) -> tuple[Tensor, BatchStatistics, dict[str, float]]:
        """Loss of the global batch, with its graph; the statistics of its contrast; and its parts, with targets."""
        user_bD, centre, b = user_bW[:, : self.encoder.width], self.encoder.config.centre, len(user_bW)
        draws = [
            gathered(user_bD, answer_bD, part.user_ids_b, centre, self.workers.gather, ids_b)
            for answer_bD, ids_b in zip(answer_ND.split(b), part.answer_ids_N.split(b), strict=True)
        ]
        statistics = batch_statistics(draws[0], self.config.objective)
        losses_K = torch.stack([info_nce(sides, self.config.objective) for sides in draws])
        contrast = self.config.contrast_weight * losses_K.mean()
        if self.heads is None or targets is None or self.config.targets is None:
            return contrast, statistics, {}
        vector_BW = self.encoder.batch_vectors(self.workers.gather(user_bW))
        losses = {"contrast": contrast} | self.heads.losses(vector_BW, targets, self.config.targets)
        named = {f"loss_{name}": loss.item() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), statistics, named

    def _held_out_metrics(self, held_out: pa.Table) -> dict[str, float]:
        """Metrics of the held-out pairs under the mask of the next step, as one batch over all workers."""
        self.encoder.eval()
        rows = held_out.slice(*self.workers.share(len(held_out)))
        part = self._part(rows, answer_seed=self.seed)
        states = part.towers.states(self._weight)
        loss, statistics, parts = self._loss(states["user"], states["answer"], part, self._gathered_targets(rows))
        return {
            "held_out_loss": loss.item(),
            "held_out_accuracy": statistics.accuracy,
            "held_out_mean_rank": statistics.mean_rank,
            **{f"held_out_{name}": part for name, part in parts.items()},
        }

    def _weight(self, tokens: Tokens) -> Tensor:
        return self.recipe.future_weight(tokens, self.bundle.step)

    def _gradient_pass(self, part: _Part) -> None:
        """Run forward and backward for `observe` only, with the encoder's present weights or those of step 0."""
        parameters = self.encoder.trainable()
        present = {name: p.data for name, p in parameters.items()}
        for name, value in self.initial.items():
            parameters[name].data = value
        self._backward(part, self._observers)
        for name, value in present.items():
            parameters[name].data = value
        self.recipe.end_step(self.workers.reduce)

    def _observers(self, tokens: Tokens) -> Sequence[Observe]:
        assert self.recipe.grad_site is not None
        return [Observe(self.recipe.grad_site, partial(self.recipe.observe, tokens=tokens, step=self.bundle.step))]

    def _update(self, rows: pa.Table) -> float:
        """Sum gradients over workers, clip them, and update; returns their norm before clipping."""
        parameters = self._trained().parameters()
        for name, parameter in parameters.items():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.workers.size > 1:
                # every worker has the heads' whole gradient, but only its own rows' part of the encoder's
                share = parameter.grad / self.workers.size if name.startswith("heads.") else parameter.grad
                parameter.grad = self.workers.reduce(share)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), self.config.optimizer.clip_norm))
        check_gradient(norm, self.bundle.step, rows)
        self.optimizer.step()
        return norm


def user_ids(rows: pa.Table) -> Tensor:
    """A number per row that is the same for all rows of a user, on every worker, int64 (b,)."""
    return torch.from_numpy(hash64(rows["user_id"]).view(np.int64).copy())

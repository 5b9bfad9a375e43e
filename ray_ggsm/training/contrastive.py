"""The gradients of a contrastive step of the language model. Paper, section 4.

Take this worker's rows of the global batch; run both towers in micro-batches of similar length under the recipe's mask
(towers.py); compute InfoNCE over the states of all workers (loss.py), and the losses of what heads read from the
vectors (heads.py); run backward, in which GG-SM observes the user tower's gradients.

Legend: b rows of this worker, N answers to them (one per row and draw), K draws, B rows of the global batch, D width.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa
import torch
from torch import Tensor, nn

from ray_ggsm import storage
from ray_ggsm.masks import Tokens
from ray_ggsm.masks.hybrid_mlp import LearnedMask
from ray_ggsm.model import saved
from ray_ggsm.model.batch import Collator, on_device, tabular_matrix
from ray_ggsm.model.contract import Tower
from ray_ggsm.model.observe import Observe
from ray_ggsm.model.saved import EncoderBundle
from ray_ggsm.training.config import TrainingConfig
from ray_ggsm.training.divergence import check_loss
from ray_ggsm.training.flops import step_flops
from ray_ggsm.training.heads import VectorHeads, Wanted
from ray_ggsm.training.learner import Metrics
from ray_ggsm.training.loss import BatchStatistics, batch_statistics, gathered, mean_cosine
from ray_ggsm.training.mask_log import GradientNorms, LearnedWeights, MaskLog
from ray_ggsm.training.nested import nested_info_nce, sequence_columns
from ray_ggsm.training.next_token import check_head, head_flops
from ray_ggsm.training.old_space import OldSpace
from ray_ggsm.training.outcome import Outcome
from ray_ggsm.training.part import Part, part_of
from ray_ggsm.training.towers import Observers
from ray_ggsm.training.workers import Workers

LARGEST_SEED = 2**64 - 2**32
"""Of a worker's part of a step; its micro-batches count on from there, and torch takes less than 2**64."""


class Contrastive:
    """The language model as a `Learner`: both towers, the mask's journey, and the heads on its vectors."""

    def __init__(
        self,
        bundle: EncoderBundle,
        collator: Collator,
        config: TrainingConfig,
        workers: Workers,
        seed: int,
        *,
        head: pa.Table,
        asked: pa.Table | None = None,
        future_days: int | None = None,
        old_space: OldSpace | None = None,
    ) -> None:
        """Take the encoder to train.

        Args:
            bundle: the encoder.
            collator: builds its batches.
            config: resolved settings.
            workers: this worker's place among all.
            seed: seed of dropout and of the answers that are drawn.
            head: training rows that statistics and centres are taken from, the same on every worker.
            asked: query-answer pairs, the same on every worker; None: none are trained on.
            future_days: days that futures cover; needed for targets.
            old_space: an older encoder, and the head that reads its vectors.
        """
        self.bundle = bundle
        self.head, self.asked, self.collator, self.config = head, asked, collator, config
        self.workers, self.seed, self.encoder, self.recipe = workers, seed, bundle.encoder, bundle.recipe
        self.columns = sequence_columns(config.nested, self.encoder.vector_width, self.encoder.columns.of_sequence)
        if config.ntp_weight:
            check_head(self.encoder)
        self.heads = VectorHeads(config, self.encoder, head, future_days, seed, old_space)
        kept = self.encoder.trainable() if self.recipe.timing == "frozen_tower" else {}
        self.initial = {name: p.detach().clone() for name, p in kept.items()}
        """The weights of step 0, if GG-SM takes its gradients from them."""
        self.mask_log, mask = MaskLog(self.encoder.template, self.recipe, config.total_steps), self.encoder.learned_mask
        slots = len(self.encoder.template.slot_names)
        self.learned = LearnedWeights(mask, slots) if isinstance(mask, LearnedMask) else None
        if config.activation_checkpointing:
            self.encoder.backbone.activation_checkpointing_enable({"use_reentrant": False})

    @property
    def step(self) -> int:
        """As in `Learner`."""
        return self.bundle.step

    @property
    def trains(self) -> bool:
        """As in `Learner`."""
        return self.recipe.trains

    @property
    def device(self) -> torch.device:
        """As in `Learner`."""
        return self.encoder.device

    @property
    def product_dtype(self) -> torch.dtype:
        """As in `Learner`."""
        return self.encoder.config.torch_dtype

    @property
    def record(self) -> dict[str, list[float]]:
        """The weights of the mask per slot (`MaskLog.weight`)."""
        return self.mask_log.weight

    @property
    def sources(self) -> dict[str, str]:
        """As in `Learner`."""
        return {"backbone": self.bundle.backbone_digest, "event encoder": self.bundle.event_encoder_digest}

    def prepare(self) -> None:
        """Take statistics of numbers and the untrained towers' centres from training rows, before the first step."""
        if self.encoder.tabular is not None:
            self.encoder.fit_features(tabular_matrix(self.head).to(self.encoder.device))
        if self.encoder.fields is not None:
            self.encoder.fields.fit(self.collator.numbers(self.head).to(self.encoder.device))
        if self.encoder.fusion is not None and self.encoder.fusion.bag is not None:
            contents, count_BM = self.collator.bag(self.head)
            self.encoder.fusion.bag.fit(on_device(contents, self.device), count_BM.to(self.device))
        self.settle()

    def gradients(self, rows: pa.Table) -> Metrics:
        """As in `Learner`."""
        step = self.bundle.step
        self.encoder.train()
        part = self._part(rows, appended=self.config.ntp_weight > 0)
        observe, wanted = self.recipe.wants_gradients(step), self.heads.wanted(part.rows, self.workers.gather)
        if observe and self.recipe.timing != "previous_step":
            self._gradient_pass(part, wanted)
            observe = False
        norms = GradientNorms(self.encoder.template)

        def observers(tokens: Tokens) -> list[Observe]:
            if self.learned is not None:
                self.learned.watch(tokens)
            return [norms.observer(tokens), *(self._observers(tokens) if observe else [])]

        found = self._backward(part, wanted, observers)
        mask = self.mask_log.step(step, self.learned.end_step(self.workers) if self.learned is not None else None)
        self.recipe.end_step(self.workers.reduce)
        if self.config.questions is not None:
            cut = torch.tensor(
                self.collator.instruction_tokens_cut(part.rows).sum(), device=self.encoder.device
            ).double()
            mask["instruction_tokens_cut"] = self.workers.reduce(cut).item()
        return {
            **found.metrics(), **norms.means(self.workers, self.encoder.device), **mask,
            "temperature": self.config.temperature,
            "tokens": float(part.towers.length_N.sum()),
            "flops": step_flops(self.encoder, part.towers.length_N) + head_flops(self.encoder, part.appended_tokens),
        }  # fmt: skip

    def advance(self) -> None:
        """As in `Learner`."""
        self.bundle = replace(self.bundle, step=self.bundle.step + 1)

    def settle(self) -> None:
        """Set the towers' centres to their means over training rows, under the mask that embedding would use; answers
        are those of behaviour pairs and of query-answer pairs, in the shares that a batch has of them."""
        if not self.encoder.config.centre:
            return
        self.encoder.eval()
        states = self._states(self.head)
        answer_D, share = states["answer"].mean(dim=0), self.config.question_rows / self.config.batch_size
        if self.asked is not None:
            answer_D = torch.lerp(answer_D, self._states(self.asked)["answer"].mean(dim=0), share)
        self.encoder.set_centres(states["user"], answer_D)

    def _states(self, rows: pa.Table) -> dict[Tower, Tensor]:
        """Both towers' states of the first rows, as many as centres are taken from."""
        return self._part(rows.slice(0, self.config.centre_rows)).towers.states(self.bundle.embedding_weight)

    def parameters(self) -> dict[str, nn.Parameter]:
        """As in `Learner`."""
        return self.encoder.trainable() | {f"heads.{name}": p for name, p in self.heads.parameters().items()}

    def save(self, directory: str) -> None:
        """As in `Learner`."""
        self.save_encoder(directory)
        self.heads.save(directory)

    def restore(self, directory: str, step: int, record: dict[str, list[float]]) -> None:
        """As in `Learner`."""
        saved.restore(self.encoder, self.recipe, directory, directory)
        self.heads.restore(directory)
        self.bundle, self.mask_log.weight = replace(self.bundle, step=step), record

    def save_encoder(self, location: str) -> None:
        """As in `Learner`."""
        learned = self.bundle.step > 0 and self.config.contrast_weight > 0
        has_texts = self.config.answer.form == "text" or self.config.questions is not None
        saved.save(replace(self.bundle, text_answers=learned and has_texts), location)

    def write_record(self, location: str) -> None:
        """The mask's history (mask.json)."""
        weights = self.mask_log.slot_weights(self.bundle.mask)
        storage.write_json(storage.join(location, "mask.json"), weights.model_dump(mode="json"))

    def _part(self, rows: pa.Table, answer_seed: int | None = None, appended: bool = False) -> Part:
        """This worker's part of a batch. Answers are drawn with a seed that all workers share; dropout is not."""
        step = self.bundle.step
        seed = ((self.seed * 1_000_003 + step) * self.workers.size + self.workers.rank) * 1_000_003 % LARGEST_SEED
        answer_seed = self.seed + step if answer_seed is None else answer_seed
        return part_of(rows, self.encoder, self.collator, self.config, seed, answer_seed, appended)

    def _backward(self, part: Part, wanted: Wanted, observers: Observers) -> Outcome:
        """Add the gradients of the global batch."""
        results: list[Outcome] = []

        def loss_of(user_bW: Tensor, answer_ND: Tensor) -> Tensor:
            loss, statistics, parts = self._loss(user_bW, answer_ND, part, wanted)
            states = {"user": user_bW[:, : self.encoder.state_width], "answer": answer_ND}
            cosines = {tower: mean_cosine(s, self.workers.reduce) for tower, s in states.items()}
            check_loss(loss.item(), statistics, cosines["user"], self.encoder.config.dtype, self.bundle.step, part.rows)
            results.append(Outcome(loss.item(), statistics, cosines, parts))
            return loss

        tokens = self._sum(part.appended_tokens)
        each = self.config.ntp_weight / tokens if tokens else 0.0
        loss = part.towers.backward(self._weight, loss_of, self.config.graph_tokens, observers, each)
        return results[0].with_next_tokens(each * self._sum(loss)) if tokens else results[0]

    def _sum(self, number: float) -> float:
        """Its sum over workers; 0 without a next-token loss, which alone asks for it."""
        if not self.config.ntp_weight:
            return 0.0
        return self.workers.reduce(torch.tensor(number, dtype=torch.float64, device=self.encoder.device)).item()

    def _loss(
        self, user_bW: Tensor, answer_ND: Tensor, part: Part, wanted: Wanted
    ) -> tuple[Tensor, BatchStatistics, dict[str, float]]:
        """Loss of the global batch, with its graph; the statistics of its contrast; and its parts, with heads."""
        user_bD, centre, b = user_bW[:, : self.encoder.state_width], self.encoder.config.centre, len(user_bW)
        draws = [
            gathered(user_bD, answer_bD, part.user_ids_b, centre, self.workers.gather, ids_b)
            for answer_bD, ids_b in zip(answer_ND.split(b), part.answer_ids_N.split(b), strict=True)
        ]
        statistics = batch_statistics(draws[0], self.config.objective)
        losses_K = torch.stack([nested_info_nce(sides, self.config.objective, self.columns) for sides in draws])
        contrast = self.config.contrast_weight * losses_K.mean()
        if not self.heads.any:
            return contrast, statistics, {}
        vector_BW = self.encoder.batch_vectors(self.workers.gather(user_bW))
        losses = {"contrast": contrast} | self.heads.losses(vector_BW, wanted)
        named = {f"loss_{name}": loss.item() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum(), statistics, named

    def held_out(self, rows: pa.Table) -> Metrics:
        """Metrics of held-out pairs under the mask of the next step, as one batch over all workers."""
        self.encoder.eval()
        part = self._part(rows, answer_seed=self.seed)
        states = part.towers.states(self._weight)
        wanted = self.heads.wanted(rows, self.workers.gather)
        loss, statistics, parts = self._loss(states["user"], states["answer"], part, wanted)
        return {"loss": loss.item(), "accuracy": statistics.accuracy, "mean_rank": statistics.mean_rank, **parts}

    def _weight(self, tokens: Tokens) -> Tensor:
        return self.recipe.future_weight(tokens, self.bundle.step)

    def _gradient_pass(self, part: Part, wanted: Wanted) -> None:
        """Run forward and backward for `observe` only, with the encoder's present weights or those of step 0."""
        parameters = self.encoder.trainable()
        present = {name: p.data for name, p in parameters.items()}
        for name, value in self.initial.items():
            parameters[name].data = value
        self._backward(part, wanted, self._observers)
        for name, value in present.items():
            parameters[name].data = value
        self.recipe.end_step(self.workers.reduce)
        for parameter in self.parameters().values():
            parameter.grad = None

    def _observers(self, tokens: Tokens) -> Sequence[Observe]:
        assert self.recipe.grad_site is not None
        return [Observe(self.recipe.grad_site, partial(self.recipe.observe, tokens=tokens, step=self.bundle.step))]

"""Gradient-Guided Soft Masking (GG-SM): the mask opens where gradients are large, then everywhere. Paper, eq. 5, 15.

    t <  T_warm:  w_j = sigma(g_j)
    t >= T_warm:  w_j = (1 - alpha) sigma(g_j at T_warm - 1) + alpha,   alpha = (t - T_warm) / (T_total - T_warm)

g_j is the norm of the loss gradient at h_j. The paper leaves two questions open: how a gradient can steer the forward
pass that produces it, and what a weight frozen for one user's tokens means for the next user. Here the importance g is
a vector over the template's slots: the mean over a slot's valid tokens on all workers, smoothed over past steps.

Two things of the published form keep a gradient from guiding. A raw norm is so small that sigma(g) is about 0.5 for
every slot; `calibration: zscore` spreads the importance over slots before the sigmoid. And a norm is mostly its row's
scale: under mean pooling each token's gradient carries 1 / length, and late ranks exist in long rows only;
`row_scale: removed` compares tokens within their rows. The published form is `calibration: none, row_scale: kept`.

Two variants go beyond the letter. With `grad_site: mask`, the importance is what opening a slot a little is worth to
the loss: minus its gradient at log w. With `ramp: by_importance`, important slots become bidirectional first.

Steps: `observe` takes a micro-batch, `end_step` merges the step's means into the importance, `future_weight` reads the
importance. From step T_warm on, the importance is frozen.

Legend: B rows, L tokens, D width, S slots of the template.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from ray_ggsm.config import Before
from ray_ggsm.masks.calibration import Calibration, calibrated
from ray_ggsm.masks.norms import add_norms, norms, relative_norms
from ray_ggsm.masks.recipe import Clock, Recipe, Reduce, ScheduledConfig, Timing, WarmupConfig, constant_weight
from ray_ggsm.masks.tokens import Tokens


def _grad_site(name: str) -> str:
    if not re.fullmatch(r"last|input|mean_layers|layer:[1-9][0-9]*|mask", name):
        raise ValueError("expected last, input, mean_layers, mask, or layer:k with k from 1 (the state after k layers)")
    return name


GradSite = Annotated[str, AfterValidator(_grad_site)]


Ramp = Literal["together", "by_importance"]


Norms = tuple[Tensor, Tensor, Tensor]
"""Gradient norm of each token (B, L), or what opening it is worth; its slot; and whether it counts."""
ROUNDS = 10
"""How often rows' scales and slots' importances are found from each other in a step."""


class ImportanceConfig(ScheduledConfig):
    """How gradients become an importance per slot, and importances become weights."""

    grad_site: GradSite = "input"
    """Where gradients count: the input embeddings, the states after layer k, the mean over all layers, or
    the last states (which cannot rank tokens: with <USER> pooling, their gradient is 0 at every other token). mask: log
    w itself, with its sign. Each query before a key counts, so late positions have larger values; and the warm-up then
    costs the gradient of the attention bias in every layer."""
    timing: Timing = "previous_step"
    """Backward pass that the gradients come from."""
    slot: Literal["modality_rank", "position"] = "modality_rank"
    """Tokens that share an importance: those of one (modality, recency rank), or those at one absolute position."""
    row_scale: Annotated[Literal["kept", "removed"], Before("kept")] = "removed"
    """kept: a token's gradient norm as it is (published). removed: relative to the scale of its row, so that neither
    the row's length nor its loss counts (`ray_ggsm.masks.norms.relative_norms`)."""
    calibration: Calibration = "zscore"
    """What the sigmoid takes: the raw gradient norm (as published), its z-score over the slots seen so far, or the
    normal score of its rank among them."""
    smoothing: float = Field(0.9, ge=0, lt=1)
    """Share of the previous importance that each step keeps (exponential moving average)."""


class GGSMConfig(ImportanceConfig, WarmupConfig):
    """Gradient-guided warm-up, then a linear ramp to bidirectional."""

    recipe: Literal["ggsm"]
    start: Literal["literal", "ramp"] = "literal"
    """literal: the soft mask applies in full from step 0. ramp: it fades in from causal over the warm-up."""
    ramp: Ramp = "together"
    """After the warm-up. together: all slots reach 1 at T_total (published). by_importance: the most important slot
    reaches 1 half-way, just as the least important one begins."""

    def build(self) -> "GGSM":
        """GG-SM with this config's importance."""
        return GGSM(self, self.clock(), ramp_in=self.start == "ramp", ramp=self.ramp)


class HybridMaskConfig(ImportanceConfig):
    """GG-SM's warm-up weight for the whole run, frozen for inference. Paper, Appendix A.4, hybrid (a)."""

    recipe: Literal["hybrid_mask"]
    timing: Annotated[Timing, Before("previous_step")] = "frozen_tower"
    """Backward pass that the gradients come from; in the appendix, that of a frozen encoder."""

    def build(self) -> "HybridMask":
        """GG-SM whose warm-up lasts the whole run."""
        total = self.require_total_steps()
        return HybridMask(self, Clock(total, total), ramp_in=False)


class GGSM(Recipe):
    """A weight per slot, from gradients until T_warm and then ramped to 1."""

    def __init__(self, config: ImportanceConfig, clock: Clock, ramp_in: bool, ramp: Ramp = "together") -> None:
        self.config, self.clock, self.ramp_in, self.ramp = config, clock, ramp_in, ramp
        self.grad_site = config.grad_site
        self.timing = config.timing
        self.importance_S = torch.zeros(0)
        """Smoothed mean per slot of gradient norms, of relative norms, or of what opening is worth; meaningful where
        `seen_S`."""
        self.seen_S = torch.zeros(0, dtype=torch.bool)
        self._norms: list[Norms] = []
        """The step's micro-batches so far."""

    def alpha(self, step: int) -> float:
        """Share of the way from the soft mask to bidirectional: 0 during warm-up, 1 at T_total."""
        return self.clock.alpha(step)

    def wants_gradients(self, step: int) -> bool:
        """During warm-up only."""
        return step < self.clock.warmup_steps

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L): eq. 5. A slot that no gradient has reached yet weighs sigma(0) = 0.5."""
        alpha: float | Tensor = self.alpha(step)
        if self.ramp == "by_importance" and len(self.importance_S):
            alpha = self._of_slots(self._alpha_S(self.alpha(step)), tokens)
        entered = min(step / self.clock.warmup_steps, 1.0) if self.ramp_in else 1.0
        return (1 - alpha) * entered * self._soft_BL(tokens) + alpha

    def observe(self, grad_BLD: Tensor, tokens: Tokens, step: int) -> None:
        """Keep this micro-batch's gradient norms until the step ends, unless the importance is frozen. With `grad_site:
        mask`, gradients at log w (B, L)."""
        if not self.wants_gradients(step):
            return
        if not len(self.importance_S):
            n = tokens.n_slots if self.config.slot == "modality_rank" else tokens.n_positions
            self.importance_S, self.seen_S = torch.zeros(n), torch.zeros(n, dtype=torch.bool)
        norm_BL = -grad_BLD.detach().float() if self.grad_site == "mask" else norms(grad_BLD)
        self._norms.append((norm_BL, self._slot_BL(tokens), tokens.valid_BL))

    def end_step(self, reduce: Reduce) -> None:
        """Sum over workers, take the mean per slot, and smooth it into the importance."""
        if not self._norms:
            return
        if self.config.row_scale == "kept":
            mean_S, now_S = self._means(self._norms, reduce)
        else:
            mean_S, now_S = self._relative_means(reduce)
        self._norms = []
        keep = self.config.smoothing
        smoothed_S = torch.where(self.seen_S, keep * self.importance_S + (1 - keep) * mean_S, mean_S)
        self.importance_S = torch.where(now_S, smoothed_S, self.importance_S)
        self.seen_S = self.seen_S | now_S

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """Fully bidirectional."""
        return constant_weight(tokens, 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """The importance, and the slots it is known for."""
        return {"importance_S": self.importance_S, "seen_S": self.seen_S}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore both."""
        self.importance_S, self.seen_S = state["importance_S"], state["seen_S"]

    def _soft_BL(self, tokens: Tokens) -> Tensor:
        """(B, L): sigma(g) of each token's slot."""
        weight_S = torch.sigmoid(calibrated(self.importance_S, self.seen_S, self.config.calibration))
        if not len(weight_S):
            return constant_weight(tokens, 0.5)
        return self._of_slots(weight_S, tokens)

    def _of_slots(self, value_S: Tensor, tokens: Tokens) -> Tensor:
        """(B, L): the value of each token's slot."""
        return value_S.to(tokens.valid_BL.device)[self._slot_BL(tokens)]

    def _alpha_S(self, alpha: float) -> Tensor:
        """(S,): how far each slot is on its way to 1 when a share `alpha` of the ramp is over. A slot that no gradient
        has reached stands in the middle."""
        place_S = torch.full_like(self.importance_S, 0.5)
        order = self.importance_S[self.seen_S].argsort(descending=True, stable=True).argsort()
        place_S[self.seen_S] = order / max(len(order) - 1, 1)
        return (2 * alpha - place_S).clamp(0, 1)

    def _means(self, seen: Sequence[Norms], reduce: Reduce) -> tuple[Tensor, Tensor]:
        """Mean norm per slot over all workers, (S,), and whether the slot has any, bool (S,)."""
        sum_count_2S = torch.zeros(2, len(self.importance_S), device=seen[0][0].device)
        for norm_BL, slot_BL, valid_BL in seen:
            add_norms(sum_count_2S, norm_BL, slot_BL, valid_BL)
        sum_S, count_S = reduce(sum_count_2S).cpu()
        return sum_S / count_S.clamp(min=1), count_S > 0

    def _relative_means(self, reduce: Reduce) -> tuple[Tensor, Tensor]:
        """As `_means`, of norms without their rows' scales.

        Scales follow from importances and importances from scales, so both are found in rounds, which begin at the
        importance so far; 1, the mean of relative norms, where none is known. What opening is worth can be negative:
        its rows' scales are those of its absolute values.
        """
        signed = self.grad_site == "mask"
        sizes = [(norm_BL.abs(), slot_BL, valid_BL) for norm_BL, slot_BL, valid_BL in self._norms]
        size_S = torch.ones_like(self.importance_S)
        if not signed:
            size_S = torch.where(self.seen_S, self.importance_S, size_S)
        now_S = self.seen_S
        for _ in range(ROUNDS):
            found_S, now_S = self._means([_relative(norms, size_S) for norms in sizes], reduce)
            size_S = torch.where(now_S, found_S, size_S)
        if not signed:
            return size_S, now_S
        relative = [_relative(norms, size_S) for norms in sizes]
        with_sign = zip(self._norms, relative, strict=True)
        return self._means([(r_BL * n_BL.sign(), s_BL, v_BL) for (n_BL, _, _), (r_BL, s_BL, v_BL) in with_sign], reduce)

    def _slot_BL(self, tokens: Tokens) -> Tensor:
        if self.config.slot == "modality_rank":
            return tokens.slot_BL
        return tokens.position_BL().clamp(max=tokens.n_positions - 1)  # answers may be longer than any user's row


def _relative(norms: Norms, importance_S: Tensor) -> Norms:
    """Without the rows' scales. A row without any gradient says nothing, and does not count."""
    norm_BL, slot_BL, valid_BL = norms
    relative_BL = relative_norms(norm_BL, importance_S.to(slot_BL.device)[slot_BL], valid_BL)
    return relative_BL, slot_BL, valid_BL & (relative_BL > 0).any(dim=1, keepdim=True)


class HybridMask(GGSM):
    """GG-SM's importances, learned during the whole run and never ramped."""

    def alpha(self, step: int) -> float:
        """1: inference uses the same mask."""
        return 1.0

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L): the warm-up line of eq. 5."""
        return self._soft_BL(tokens)

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """The same soft mask, as training left it."""
        return self._soft_BL(tokens)

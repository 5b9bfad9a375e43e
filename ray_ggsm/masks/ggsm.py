"""Gradient-Guided Soft Masking (GG-SM): the mask opens first where the loss looks, then everywhere. Paper, eq. 4, 5.

    t <  T_warm:  w_j = sigma(g_j)
    t >= T_warm:  w_j = (1 - alpha) sigma(g_j at T_warm - 1) + alpha,   alpha = (t - T_warm) / (T_total - T_warm)

g_j is the norm of the loss gradient at h_j. The paper leaves open how a gradient can steer the forward pass that
produces it, and what a weight frozen for one user's tokens means for the next user. Here the importance g is a vector
over the template's slots: the mean norm over the valid tokens of a slot, over all workers, smoothed over the steps
before. A raw norm is so small that sigma(g) is the constant 0.5; `calibration: none` is that published form, and
`zscore` spreads the importance over slots before the sigmoid.

Steps: `observe` adds up each micro-batch, `end_step` folds one step in, `future_weight` reads, and nothing is learned
from step T_warm on.
"""

import re
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from ray_ggsm.masks.recipe import Clock, Recipe, Reduce, ScheduledConfig, Timing, WarmupConfig, constant_weight
from ray_ggsm.masks.tokens import Tokens


def _grad_site(name: str) -> str:
    if not re.fullmatch(r"last|input|mean_layers|layer:[1-9][0-9]*", name):
        raise ValueError("expected last, input, mean_layers, or layer:k with k from 1 (the state after k layers)")
    return name


GradSite = Annotated[str, AfterValidator(_grad_site)]
Calibration = Literal["none", "zscore", "rank"]


class ImportanceConfig(ScheduledConfig):
    """How gradients become an importance per slot, and the importance a weight."""

    grad_site: GradSite = "input"
    """Hidden states whose gradient counts: the input embeddings, the state after layer k, the mean over all layers, or
    the last state (which cannot rank tokens: with <USER> pooling its gradient is 0 at every other token)."""
    timing: Timing = "previous_step"
    """Which backward pass gives the gradients."""
    slot: Literal["modality_rank", "position"] = "modality_rank"
    """What an importance belongs to: (modality, recency rank), or the absolute position."""
    calibration: Calibration = "zscore"
    """What the sigmoid takes: the raw gradient norm (as published), its z-score over the slots seen so far, or the
    normal score of its rank among them."""
    smoothing: float = Field(0.9, ge=0, lt=1)
    """Share of the previous importance that one step keeps (exponential moving average)."""


class GGSMConfig(ImportanceConfig, WarmupConfig):
    """Gradient-guided warm-up, then a linear ramp to bidirectional."""

    recipe: Literal["ggsm"]
    start: Literal["literal", "ramp"] = "literal"
    """literal: the soft mask acts in full from step 0. ramp: it fades in from causal over the warm-up."""

    def build(self) -> "GGSM":
        """The recipe."""
        return GGSM(self, self.clock(), ramp_in=self.start == "ramp")


class HybridMaskConfig(ImportanceConfig):
    """GG-SM's warm-up weight for the whole run, frozen for inference. Paper, Appendix A.4, hybrid (a)."""

    recipe: Literal["hybrid_mask"]

    def build(self) -> "HybridMask":
        """The recipe."""
        total = self.require_total_steps()
        return HybridMask(self, Clock(total, total), ramp_in=False)


class GGSM(Recipe):
    """Slot importances learned from gradients, frozen at T_warm, then ramped to 1."""

    def __init__(self, config: ImportanceConfig, clock: Clock, ramp_in: bool) -> None:
        self.config, self.clock, self.ramp_in = config, clock, ramp_in
        self.grad_site = config.grad_site
        self.timing = config.timing
        self.importance_S = torch.zeros(0)
        """Smoothed gradient norm per slot; meaningful where `seen_S`."""
        self.seen_S = torch.zeros(0, dtype=torch.bool)
        self._sum_count_2S: Tensor | None = None

    def alpha(self, step: int) -> float:
        """Share of the way from the soft mask to bidirectional: 0 during warm-up, 1 at T_total."""
        return self.clock.alpha(step)

    def wants_gradients(self, step: int) -> bool:
        """During warm-up only."""
        return step < self.clock.warmup_steps

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L): eq. 5. Slots that no gradient has reached yet weigh sigma(0) = 0.5."""
        alpha = self.alpha(step)
        entered = min(step / self.clock.warmup_steps, 1.0) if self.ramp_in else 1.0
        return (1 - alpha) * entered * self._soft_BL(tokens) + alpha

    def observe(self, grad_BLD: Tensor, tokens: Tokens, step: int) -> None:
        """Add this micro-batch's gradient norms to the step's sums; ignored once the importance is frozen."""
        if not self.wants_gradients(step):
            return
        n = tokens.n_slots if self.config.slot == "modality_rank" else tokens.n_positions
        if self._sum_count_2S is None:
            self._sum_count_2S = torch.zeros(2, n, device=grad_BLD.device)
        slots = self._slot_BL(tokens)[tokens.valid_BL]
        norms = grad_BLD.detach().float().norm(dim=-1)[tokens.valid_BL]
        self._sum_count_2S[0].index_add_(0, slots, norms)
        self._sum_count_2S[1].index_add_(0, slots, torch.ones_like(norms))

    def end_step(self, reduce: Reduce) -> None:
        """Reduce (sum, count) over workers, take the mean per slot, and smooth it into the importance."""
        if self._sum_count_2S is None:
            return
        sum_S, count_S = reduce(self._sum_count_2S).cpu()
        self._sum_count_2S = None
        now_S = count_S > 0
        mean_S = sum_S / count_S.clamp(min=1)
        if not len(self.importance_S):
            self.importance_S, self.seen_S = torch.zeros_like(mean_S), torch.zeros_like(now_S)
        keep = self.config.smoothing
        smoothed_S = torch.where(self.seen_S, keep * self.importance_S + (1 - keep) * mean_S, mean_S)
        self.importance_S = torch.where(now_S, smoothed_S, self.importance_S)
        self.seen_S = self.seen_S | now_S

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """Fully bidirectional."""
        return constant_weight(tokens, 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """The importance and which slots it is known for."""
        return {"importance_S": self.importance_S, "seen_S": self.seen_S}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the importance."""
        self.importance_S, self.seen_S = state["importance_S"], state["seen_S"]

    def _soft_BL(self, tokens: Tokens) -> Tensor:
        """sigma(g) of each token's slot."""
        weight_S = torch.sigmoid(self._calibrated_S())
        if not len(weight_S):
            return constant_weight(tokens, 0.5)
        return weight_S.to(tokens.valid_BL.device)[self._slot_BL(tokens)]

    def _slot_BL(self, tokens: Tokens) -> Tensor:
        return tokens.slot_BL if self.config.slot == "modality_rank" else tokens.position_BL()

    def _calibrated_S(self) -> Tensor:
        if self.config.calibration == "none" or not self.seen_S.any():
            return self.importance_S
        seen = self.importance_S[self.seen_S].double()
        if self.config.calibration == "zscore":
            scores = (seen - seen.mean()) / seen.std(correction=0).clamp(min=torch.finfo(seen.dtype).tiny)
        else:
            scores = torch.special.ndtri((seen.argsort().argsort() + 0.5) / len(seen))
        return torch.zeros_like(self.importance_S).masked_scatter(self.seen_S, scores.float())


class HybridMask(GGSM):
    """The same importances, learned during the whole run and never ramped."""

    def alpha(self, step: int) -> float:
        """There is no other inference mask to travel to."""
        return 1.0

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L): the warm-up line of eq. 5."""
        return self._soft_BL(tokens)

    def inference_weight(self, tokens: Tokens) -> Tensor:
        """The same soft mask, as training left it."""
        return self._soft_BL(tokens)

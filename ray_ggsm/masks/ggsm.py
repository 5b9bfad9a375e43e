"""Gradient-Guided Soft Masking (GG-SM): the mask opens first where the loss looks, then everywhere. Paper, eq. 4, 5.

    t <  T_warm:  w_j = sigma(g_j)
    t >= T_warm:  w_j = (1 - alpha) sigma(g_j at T_warm - 1) + alpha,   alpha = (t - T_warm) / (T_total - T_warm)

g_j is the norm of the loss gradient at h_j. The paper leaves open how a gradient can steer the forward pass that
produces it, and what a weight frozen for one user's tokens means for the next user. Here the importance g is a vector
over the template's slots: the mean norm over the valid tokens of a slot, over all workers, smoothed over the steps
before. A raw norm is so small that sigma(g) is the constant 0.5; `calibration: none` is that published form, and
`zscore` spreads the importance over slots before the sigmoid.

Steps: `observe` adds up each micro-batch, `end_step` folds one step in, `future_weight` reads, and stops learning from
step T_warm on.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ray_ggsm.masks.recipe import Reduce, ScheduledConfig, constant_weight
from ray_ggsm.masks.tokens import Tokens


class GGSMConfig(ScheduledConfig):
    """Gradient-guided warm-up, then a linear ramp to bidirectional."""

    recipe: Literal["ggsm"]
    warmup_share: float = Field(0.2, gt=0, lt=1)
    """T_warm as a share of T_total."""
    slot: Literal["modality_rank", "position"] = "modality_rank"
    """What an importance belongs to: (modality, recency rank), or the absolute position."""
    calibration: Literal["none", "zscore"] = "zscore"
    """What the sigmoid takes: the raw gradient norm (as published), or its z-score over the slots seen so far."""
    smoothing: float = Field(0.9, ge=0, lt=1)
    """Share of the previous importance that one step keeps (exponential moving average)."""

    def build(self) -> "GGSM":
        """The recipe."""
        return GGSM(self, self.require_total_steps())


class GGSM:
    """Slot importances learned from gradients, frozen at T_warm, then ramped to 1."""

    grad_site: str | None = "input"

    def __init__(self, config: GGSMConfig, total_steps: int) -> None:
        self.config = config
        self.total_steps = total_steps
        self.warmup_steps = max(1, round(config.warmup_share * total_steps))
        self.importance_S = torch.zeros(0)
        """Smoothed gradient norm per slot; meaningful where `seen_S`."""
        self.seen_S = torch.zeros(0, dtype=torch.bool)
        self._sum_count_2S: Tensor | None = None

    def alpha(self, step: int) -> float:
        """Share of the way from the soft mask to bidirectional: 0 during warm-up, 1 at T_total."""
        if self.total_steps <= self.warmup_steps:
            return float(step >= self.total_steps)
        return min(max((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 0.0), 1.0)

    def future_weight(self, tokens: Tokens, step: int) -> Tensor:
        """(B, L): eq. 5. Slots that no gradient has reached yet weigh sigma(0) = 0.5."""
        weight_S = torch.sigmoid(self._calibrated())
        if not len(weight_S):
            soft_BL = constant_weight(tokens, 0.5)
        else:
            soft_BL = weight_S.to(tokens.valid_BL.device)[self._slot_BL(tokens)]
        alpha = self.alpha(step)
        return (1 - alpha) * soft_BL + alpha

    def observe(self, grad_BLD: Tensor, tokens: Tokens, step: int) -> None:
        """Add this micro-batch's gradient norms to the step's sums; ignored once the importance is frozen."""
        if step >= self.warmup_steps:
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

    def _slot_BL(self, tokens: Tokens) -> Tensor:
        return tokens.slot_BL if self.config.slot == "modality_rank" else tokens.position_BL()

    def _calibrated(self) -> Tensor:
        if self.config.calibration == "none" or not self.seen_S.any():
            return self.importance_S
        seen = self.importance_S[self.seen_S]
        z_S = (self.importance_S - seen.mean()) / seen.std(correction=0).clamp(min=torch.finfo(seen.dtype).tiny)
        return torch.where(self.seen_S, z_S, 0.0)

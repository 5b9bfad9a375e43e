"""Records the mask's weights per slot over the steps, and gradient norms per modality.

Legend: B rows, L tokens, D width, S slots of the template, G groups of slots.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ray_ggsm.masks import Recipe, RecipeConfig, Tokens
from ray_ggsm.masks.ggsm import GGSM, ImportanceConfig
from ray_ggsm.masks.hybrid_mlp import LearnedMask
from ray_ggsm.masks.norms import add_norms, norms
from ray_ggsm.masks.slot_weights import SlotWeights
from ray_ggsm.model.observe import Observe
from ray_ggsm.model.template import Template
from ray_ggsm.training.workers import Workers

SNAPSHOTS = 16
"""Approximate number of steps per run whose weights are kept slot by slot."""


class GradientNorms:
    """Mean norm of one step's loss gradient at the input embeddings, per modality."""

    def __init__(self, template: Template) -> None:
        groups = ["tags" if name in template.tags else name.split("[")[0] for name in template.slot_names]
        self.names, index = np.unique(groups, return_inverse=True)
        self.group_S = torch.from_numpy(index)
        self.sum_count_2G = torch.zeros(2, len(self.names))

    def observer(self, tokens: Tokens) -> Observe:
        """Observes the micro-batch that has these tokens."""

        def add(grad_BLD: Tensor) -> None:
            self.group_S = self.group_S.to(grad_BLD.device)
            self.sum_count_2G = self.sum_count_2G.to(grad_BLD.device)
            add_norms(self.sum_count_2G, norms(grad_BLD), self.group_S[tokens.slot_BL], tokens.valid_BL)

        return Observe("input", add)

    def means(self, workers: Workers, device: torch.device) -> dict[str, float]:
        """`grad_norm/<modality>` over the tokens of all workers, and the same for `tags`, `tabular` and `text`.

        A group without tokens is left out.
        """
        sums, counts = workers.reduce(self.sum_count_2G.to(device)).tolist()
        return {f"grad_norm/{n}": s / c for n, s, c in zip(self.names, sums, counts, strict=True) if c}


def slot_weights(template: Template, recipe: Recipe, step: int) -> tuple[Tensor, Tensor]:
    """Weights of future keys at `step` (0-based): their distribution, and their mean per slot, (S,).

    They are those of a row that fills every slot. If the weight depends on the query, too, the distribution is over all
    pairs, and a slot's mean is over the queries before it (the first slot of the row has none, and gets 0).
    """
    tokens = template.every_slot()
    weight = recipe.future_weight(tokens, step)[0].float()
    values, mean_L = weight, weight
    if weight.dim() == 2:
        future_LL = torch.ones_like(weight, dtype=torch.bool).triu(1)
        values = weight[future_LL]
        mean_L = weight.masked_fill(~future_LL, 0).sum(dim=0) / future_LL.sum(dim=0).clamp(min=1)
    return values, torch.empty_like(mean_L).index_copy_(0, tokens.slot_BL[0], mean_L)


class LearnedWeights:
    """Mean weight per slot that a learned mask gave to future keys of user rows, over layers and queries."""

    def __init__(self, mask: LearnedMask, slots: int) -> None:
        self.layers, self._sum_count_2S = len(mask.mlps), torch.zeros(2, slots)
        self._tokens: Tokens | None = None
        self._left = 0
        mask.register_forward_hook(self._add)

    def watch(self, tokens: Tokens) -> None:
        """Count the next pass through all layers, which has these tokens."""
        self._tokens, self._left = tokens, self.layers

    def end_step(self, workers: Workers) -> Tensor:
        """The means over the step's passes on all workers, (S,); NaN for slots that no query had before it."""
        sum_S, count_S = workers.reduce(self._sum_count_2S).cpu()
        self._sum_count_2S = torch.zeros_like(self._sum_count_2S)
        return sum_S / count_S

    def _add(self, mask: nn.Module, arguments: Any, weight_BLL: Tensor) -> None:
        if self._tokens is None or not self._left:
            return  # the answer tower, embedding, or a layer that is computed again for its gradients
        self._left -= 1
        valid_BL, slot_BL = self._tokens.valid_BL, self._tokens.slot_BL
        future_BLL = (valid_BL[:, :, None] & valid_BL[:, None, :]).triu(1)
        self._sum_count_2S = self._sum_count_2S.to(weight_BLL.device)
        for row, values_BLL in zip(self._sum_count_2S, (weight_BLL.detach() * future_BLL, future_BLL), strict=True):
            row.index_add_(0, slot_BL[valid_BL], values_BLL.float().sum(dim=1)[valid_BL])


class MaskLog:
    """Records the weights of future keys over the steps."""

    def __init__(self, template: Template, recipe: Recipe, steps: int) -> None:
        self.template, self.recipe, self.every = template, recipe, max(1, steps // SNAPSHOTS)
        self.weight: dict[str, list[float]] = {}
        """Step, counted from 1 -> weight per slot."""

    def step(self, step: int, learned_S: Tensor | None = None) -> dict[str, float]:
        """Alpha and the distribution of w over slots at `step` (0-based); some steps are kept slot by slot.

        Args:
            step: the step.
            learned_S: mean weights per slot of a learned mask, in the place of the recipe's; NaN where there is none,
                which is kept as 0.
        """
        values, per_slot_S = slot_weights(self.template, self.recipe, step)
        if learned_S is not None:
            values, per_slot_S = learned_S[~learned_S.isnan()], learned_S.nan_to_num()
        if step % self.every == 0:
            self.weight[str(step + 1)] = [round(w, 6) for w in per_slot_S.tolist()]
        p5, p95 = torch.quantile(values, torch.tensor([0.05, 0.95])).tolist()
        return {
            "alpha": self.recipe.alpha(step), "w_mean": values.mean().item(), "w_p5": p5, "w_p95": p95,
            "w_min": values.min().item(), "w_max": values.max().item(),
            "w_spread": values.std(correction=0).item(),
        }  # fmt: skip

    def slot_weights(self, mask: RecipeConfig) -> SlotWeights:
        """The record so far; `mask` is the recipe's config."""
        return SlotWeights(
            recipe=mask.recipe,
            slots=self.template.slot_names,
            weight={int(step): tuple(weights) for step, weights in self.weight.items()},
            importance=self._importance(),
            calibration=mask.calibration if isinstance(mask, ImportanceConfig) else None,
            grad_site=mask.grad_site if isinstance(mask, ImportanceConfig) else None,
            row_scale=mask.row_scale if isinstance(mask, ImportanceConfig) else "kept",
        )

    def _importance(self) -> tuple[float | None, ...] | None:
        """GG-SM's importance per slot, None at slots without any token; None where it does not belong to slots."""
        recipe = self.recipe
        if not isinstance(recipe, GGSM) or recipe.config.slot != "modality_rank" or not len(recipe.importance_S):
            return None
        pairs = zip(recipe.importance_S.tolist(), recipe.seen_S.tolist(), strict=True)
        return tuple(g if seen else None for g, seen in pairs)

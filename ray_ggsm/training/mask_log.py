"""Records the mask's weights per slot over the steps, and gradient norms per modality.

Legend: B rows, L tokens, D width, S slots of the template, G groups of slots.
"""

import numpy as np
import torch
from torch import Tensor

from ray_ggsm.masks import Recipe, RecipeConfig, Tokens
from ray_ggsm.masks.ggsm import GGSM, ImportanceConfig
from ray_ggsm.masks.norms import add_norms, norms
from ray_ggsm.masks.slot_weights import SlotWeights
from ray_ggsm.model.encoder import Observe
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


class MaskLog:
    """Records the weights of future keys over the steps."""

    def __init__(self, template: Template, recipe: Recipe, steps: int) -> None:
        self.template, self.recipe, self.every = template, recipe, max(1, steps // SNAPSHOTS)
        self.weight: dict[str, list[float]] = {}
        """Step, counted from 1 -> weight per slot."""

    def step(self, step: int) -> dict[str, float]:
        """Alpha and the distribution of w over slots at `step` (0-based); some steps are kept slot by slot."""
        weight = self.recipe.future_weight(self.template.every_slot(), step)[0].float()
        if weight.dim() == 1:
            values, per_slot_S = weight, weight
        else:  # the weight depends on the query, too: take all future keys, and the mean over a key's queries
            future_SS = torch.ones_like(weight, dtype=torch.bool).triu(1)
            values = weight[future_SS]
            per_slot_S = weight.masked_fill(~future_SS, 0).sum(dim=0) / future_SS.sum(dim=0).clamp(min=1)
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
            row_scale=mask.row_scale if isinstance(mask, ImportanceConfig) else "kept",
        )

    def _importance(self) -> tuple[float | None, ...] | None:
        """GG-SM's importance per slot, None at slots without any token; None where it does not belong to slots."""
        recipe = self.recipe
        if not isinstance(recipe, GGSM) or recipe.config.slot != "modality_rank" or not len(recipe.importance_S):
            return None
        pairs = zip(recipe.importance_S.tolist(), recipe.seen_S.tolist(), strict=True)
        return tuple(g if seen else None for g, seen in pairs)

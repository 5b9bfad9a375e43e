"""Integrated gradients of a probe's score with respect to the vectors that events enter the backbone as.

    effect_e = sum_d (x_ed - x'_ed) * integral_0^1 dF(x' + a (x - x')) / dx_ed da

(Sundararajan et al., 1703.01365, eq. 1). x has an event's text, parts, fields, age and amount; tags, features,
instruction, layout and mask stay. The effects of all events sum to F(x) - F(x') up to the rule's error (completeness).

Legend: S points, L tokens, E events, D width of the backbone, W width of the vectors.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ray_ggsm.encoders.language_model import LanguageModel
from ray_ggsm.evaluation.linear_probe import LinearProbe
from ray_ggsm.explaining.config import GradientsConfig
from ray_ggsm.numerics import signed_log


@dataclass(frozen=True)
class Attribution:
    """What integrated gradients say about one row."""

    effect_E: np.ndarray
    """float64: in log-odds; positive where the event raises the score."""
    score: float
    """F(x)."""
    baseline_score: float
    """F(x')."""

    @property
    def gap(self) -> float:
        """What the effects miss of F(x) - F(x')."""
        return float(self.effect_E.sum() - (self.score - self.baseline_score))


class IntegratedGradients:
    """Explains rows of a language model's encoder."""

    def __init__(self, encoder: LanguageModel, probe: LinearProbe, config: GradientsConfig, tokens: int) -> None:
        """A forward and backward pass gets up to `tokens` padded tokens."""
        self.encoder, self.config, self.tokens = encoder, config, tokens
        names = ("mean_D", "scale_D", "weight_1D", "bias_1")
        arrays = (np.asarray(getattr(probe, name), dtype=np.float32) for name in names)
        self.mean_W, self.scale_W, self.weight_1W, self.bias_1 = (
            torch.from_numpy(array).to(encoder.device) for array in arrays
        )
        nodes, weights = np.polynomial.legendre.leggauss(config.steps)
        self.point_S = [0.0, *((nodes + 1) / 2), 1.0]
        """Places on the path; the first is the baseline, the last the row."""
        self.weight_S = [0.0, *(weights / 2), 0.0]

    def __call__(self, row: pa.Table) -> Attribution:
        """The effects of one row's events, in their order."""
        model = self.encoder.model
        batch = self.encoder.collator.users(row).to(self.encoder.device)
        event_L = batch.layout.event_BL[0]
        with torch.no_grad(), model.autocast():
            x_LD = model.inputs(batch)[0]
        base_LD = self._baseline(x_LD, event_L >= 0)
        gradient_LD, scores = torch.zeros_like(x_LD), []
        at_once = max(1, self.tokens // len(x_LD))
        for start in range(0, len(self.point_S), at_once):
            part = slice(start, start + at_once)
            a_s11 = x_LD.new_tensor(self.point_S[part])[:, None, None]
            path_sLD = (base_LD + a_s11 * (x_LD - base_LD)).requires_grad_()
            score_s = self._scores(row, path_sLD)
            (slope_sLD,) = torch.autograd.grad(score_s.sum(), path_sLD)
            gradient_LD += (x_LD.new_tensor(self.weight_S[part])[:, None, None] * slope_sLD).sum(dim=0)
            scores += score_s.tolist()
        effect_L = ((x_LD - base_LD) * gradient_LD).double().sum(dim=1)
        position_E = (event_L >= 0).nonzero()[:, 0]
        position_E = position_E[event_L[position_E].argsort()]
        return Attribution(effect_L[position_E].cpu().numpy(), scores[-1], scores[0])

    def _baseline(self, x_LD: Tensor, is_event_L: Tensor) -> Tensor:
        base_LD = x_LD.clone()
        if is_event_L.any():
            base_LD[is_event_L] = x_LD[is_event_L].mean(dim=0) if self.config.baseline == "mean" else 0.0
        return base_LD

    def _scores(self, row: pa.Table, path_sLD: Tensor) -> Tensor:
        """The probe's log-odds with these inputs, (s,)."""
        encoder, model = self.encoder, self.encoder.model
        copies = encoder.collator.users(row.take(pa.array([0] * len(path_sLD)))).to(encoder.device)
        weight = encoder.bundle.embedding_weight(copies.layout.tokens, encoder.finished_mask)
        vector_sW = model.vectors(model(copies, weight, inputs_BLD=path_sLD), "user")
        z_sW = (signed_log(vector_sW, torch) - self.mean_W) / self.scale_W
        return z_sW @ self.weight_1W[0] + self.bias_1

"""Pictures of how the attention mask opened: over steps, over slots, and why the published weight is flat.

They are drawn from the train stage's log, one entry per step, and from the weight of future keys per slot at some steps
(`mask.json`). A slot is a place in the template: a tag, text, or `name[rank]`, where rank 0 is the newest event.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import expit

from ray_ggsm.evaluation.pages import charts
from ray_ggsm.evaluation.pages.charts import Points
from ray_ggsm.evaluation.pages.figure import Figure
from ray_ggsm.masks.calibration import calibrated
from ray_ggsm.masks.slot_weights import SlotWeights

WEIGHT_CURVES = {"alpha": "alpha", "mean": "w_mean", "p5": "w_p5", "p95": "w_p95"}
"""Curve -> key in the log."""
GRADIENT = "grad_norm/"
"""Beginning of the log's keys of gradient norms; the rest is the modality."""
FEW = 4
"""Largest family of slots that is shown as rows of marks; larger ones are lines in a panel of their own."""
FLAT = 0.05
"""Largest distance from 0.5, over all slots, of a published weight that is called flat."""

_CALIBRATIONS = {
    "none": "This run used the published weight.",
    "zscore": "This run used the calibrated weight.",
    "rank": "This run used the rank of g instead of its z-score.",
}


@dataclass(frozen=True)
class MaskHistory:
    """How the mask opened. Empty parts leave no picture behind."""

    weight: Mapping[str, Points] = field(default_factory=dict)
    """"alpha", "mean", "p5", "p95" -> (step, value); all four or none."""
    gradient: Mapping[str, Points] = field(default_factory=dict)
    """Modality, "tags", "tabular", "text" -> (step, mean gradient norm at the input embeddings, above 0)."""
    slots: SlotWeights | None = None


def mask_history(log: Sequence[Mapping[str, float]], slots: SlotWeights | None) -> MaskHistory:
    """The curves and weights that pictures are drawn from.

    Args:
        log: entries of the train stage, one per step; empty without training.
        slots: weights by slot; None if they are unknown.
    """
    gradients = dict.fromkeys(key for entry in log for key in entry if key.startswith(GRADIENT))
    weight = {name: curve(log, key) for name, key in WEIGHT_CURVES.items()}
    norms = {key.removeprefix(GRADIENT): [p for p in curve(log, key) if p[1] > 0] for key in gradients}
    return MaskHistory(
        weight=weight if all(weight.values()) else {},
        gradient={name: points for name, points in norms.items() if points},
        slots=slots,
    )


def curve(log: Sequence[Mapping[str, float]], key: str) -> Points:
    """(step, value) of every entry with a finite value under the key."""
    return [(entry["step"], entry[key]) for entry in log if key in entry and math.isfinite(entry[key])]


def over_steps(mask: MaskHistory) -> list[Figure]:
    """The weight over steps with its band over slots, and gradient norms over steps."""
    figures = []
    if mask.weight:
        shown = {"mean weight": mask.weight["mean"], "alpha": mask.weight["alpha"]}
        band = (mask.weight["p5"], mask.weight["p95"])
        picture = charts.lines(shown, "Mask weight over training steps", band, span=(0, 1))
        figures.append(Figure("Weight of future keys", {"": picture}, list(shown), "5th to 95th percentile"))
    if mask.gradient:
        title = "Gradient norms at the input over training steps, logarithmic"
        picture = charts.lines(mask.gradient, title, logarithmic=True, names=True, size=(540, 260))
        figures.append(Figure("Gradient norm at the input embeddings (logarithmic)", {"": picture}))
    return figures


def over_gradients(slots: SlotWeights | None) -> Figure | None:
    """sigma(g), and sigma of the z-score of g, of every slot that has an importance g, in the order of g (eq. 5).

    Without the row's scale, g is no gradient norm, and the published weight is not shown. Nothing is shown where g is
    what opening a slot is worth.
    """
    if slots is None or slots.importance is None or slots.grad_site == "mask":
        return None
    norms = np.sort([g for g in slots.importance if g is not None])
    if len(norms) < 2:
        return None
    if slots.row_scale == "removed":
        return _over_relative_norms(norms, slots.calibration or "")
    published, zscored = published_weight(norms), calibrated_weight(norms)
    series = {
        name: list(enumerate(values.tolist(), 1))
        for name, values in {"calibrated": zscored, "published": published}.items()
    }
    title = "Weight of every slot as published and calibrated, in the order of the gradient norm"
    axis_name = "slots, from the smallest gradient norm to the largest"
    picture = charts.lines(series, title, span=(0, 1), names=True, axis_name=axis_name, size=(540, 270))
    flat = published[-1] < 0.5 + FLAT
    caption = "Why the published weight is flat" if flat else "The published weight and the calibrated one"
    note = f"{_weights_note(norms, published, zscored, flat)} {_CALIBRATIONS.get(slots.calibration or '', '')}"
    return Figure(caption, {"": picture}, note=note.strip())


def _over_relative_norms(norms: np.ndarray, calibration: str) -> Figure:
    """sigma of the z-score of relative gradient norms, which ascend."""
    weights = calibrated_weight(norms)
    title = "Weight of every slot, in the order of the gradient norm relative to its row"
    axis_name = "slots, from the smallest relative gradient norm to the largest"
    series = {"calibrated": list(enumerate(weights.tolist(), 1))}
    picture = charts.lines(series, title, span=(0, 1), names=True, axis_name=axis_name, size=(540, 270))
    note = (
        f"Relative to their rows, the gradient norms g of {len(norms):,} slots lie between {norms[0]:.2g} and "
        f"{norms[-1]:.2g} (1 is the mean); σ of the z-score spreads the weight from {weights[0]:.3f} to "
        f"{weights[-1]:.3f}. {_CALIBRATIONS.get(calibration, '')}"
    )
    return Figure("From gradient norms to weights", {"": picture}, note=note.strip())


def _weights_note(norms: np.ndarray, published: np.ndarray, calibrated: np.ndarray, flat: bool) -> str:
    """The smallest and largest norms and weights in words; all arguments ascend."""
    text = f"The gradient norms g of {len(norms):,} slots lie between {norms[0]:.2g} and {norms[-1]:.2g}"
    if flat:
        return (
            f"{text}, so near zero that the published weight, the sigmoid σ(g), stays between {published[0]:.4f} and "
            f"{published[-1]:.4f}, about σ(0) = 0.5 for every slot: only the differences between slots carry "
            "information, and measuring them in standard deviations (the z-score) spreads the weight from "
            f"{calibrated[0]:.3f} to {calibrated[-1]:.3f}."
        )
    return (
        f"{text}, which puts the published σ(g) between {published[0]:.2f} and {published[-1]:.2f}, and σ of the "
        f"z-score between {calibrated[0]:.2f} and {calibrated[-1]:.2f}."
    )


def over_slots(mask: MaskHistory) -> Figure | None:
    """The weight by slot at a few steps: over recency ranks, a panel per modality, and the other slots as rows."""
    if not mask.slots or not mask.slots.weight:
        return None
    slots = mask.slots
    steps = _telling_steps(slots.weight, {int(step): alpha for step, alpha in mask.weight.get("alpha", ())})
    families: dict[str, list[int]] = {}
    for slot, name in enumerate(slots.slots):
        families.setdefault(re.sub(r"\[\d+\]$", "", name), []).append(slot)
    large = {family: members for family, members in families.items() if len(members) > FEW}
    panels = {family: _family(slots, family, members, steps) for family, members in large.items()}
    single = [slot for members in families.values() if len(members) <= FEW for slot in members]
    rows = {slots.slots[slot]: [slots.weight[step][slot] for step in steps] for slot in single}
    if rows:
        title = "Weight of tags, text and other single slots"
        panels[""] = charts.marks(rows, list(steps.values()), title, (0, 1), 330)
    note = "The left end of a modality's panel is the newest event (recency rank 0)."
    if unseen := sum(g is None for g in slots.importance or ()):
        note += f" Slots that never held a token ({unseen:,} of {len(slots.slots):,}) weigh σ(0) = 0.5 during warm-up."
    return Figure("Weight of future keys by slot", panels, list(steps.values()), note=note)


def _family(slots: SlotWeights, family: str, members: Sequence[int], steps: Mapping[int, str]) -> str:
    """Lines of the weight over a family's slots, one per step."""
    title = f"Weight of {family} over {'number' if family == 'tabular' else 'recency rank'}"
    series = {
        name: [(rank, slots.weight[step][slot]) for rank, slot in enumerate(members)] for step, name in steps.items()
    }
    return charts.lines(series, title, span=(0, 1), size=(330, 190))


def _telling_steps(weight: Mapping[int, Sequence[float]], alpha: Mapping[int, float]) -> dict[int, str]:
    """Recorded step -> its name, oldest first: the first step, the middle and the end of the warm-up, half the ramp.

    Without a ramp (alpha is the same at all steps, or unknown) the first, the middle and the last step.
    """
    steps = sorted(weight)
    warmup = [step for step in steps if alpha.get(step) == 0]
    ramp = [step for step in steps if 0 < alpha.get(step, 0) < 1]
    if ramp:
        half = min(ramp, key=lambda step: abs(alpha[step] - 0.5))
        chosen = {half: f"step {half}, alpha {alpha[half]:.2f}"}
        if warmup:
            middle, end = warmup[(len(warmup) - 1) // 2], warmup[-1]
            chosen |= {middle: f"step {middle}, warm-up", end: f"step {end}, late warm-up"}
    else:
        chosen = {step: f"step {step}" for step in (steps[len(steps) // 2], steps[-1])}
    chosen[steps[0]] = f"step {steps[0]}"
    return dict(sorted(chosen.items()))


def published_weight(norms: np.ndarray) -> np.ndarray:
    """sigma(g)."""
    return expit(norms)


def calibrated_weight(norms: np.ndarray) -> np.ndarray:
    """sigma of the z-score of g among all norms; 0.5 if all are equal."""
    g_S = torch.from_numpy(norms).float()
    return calibrated(g_S, torch.ones_like(g_S, dtype=torch.bool), "zscore").sigmoid().numpy()

"""What a train stage leaves behind for the report, made up: four modalities, 150 steps, a warm-up of 30."""

import numpy as np

from ray_ggsm.masks.slot_weights import SlotWeights

KEEP = {"bill": 150, "coupon": 40, "campaign": 20, "promo": 40}
STEPS, WARMUP = 150, 30
TAGS = [tag for name in (*KEEP, "tabular") for tag in (f"<{name}>", f"</{name}>")] + ["<USER>", "<ANSWER>"]
NAMES = [
    *TAGS,
    *(f"{name}[{rank}]" for name, keep in KEEP.items() for rank in range(keep)),
    *(f"tabular[{k}]" for k in range(4)),
    "text",
]
NEVER = NAMES.index("coupon[39]")
"""A slot that no token ever filled."""


def alpha(step: int) -> float:
    return max(0.0, (step - 1 - WARMUP) / (STEPS - WARMUP))


def importance() -> list[float | None]:
    """Gradient norms of a hundredth: tags see more than events, new events more than old ones."""
    rng = np.random.default_rng(0)
    base = [
        0.022 if name in TAGS else 0.008 + 0.008 * np.exp(-int(name[:-1].split("[")[1]) / 30) if "[" in name else 0.005
        for name in NAMES
    ]
    norms = (base * np.exp(rng.normal(0, 0.15, len(base)))).tolist()
    return [None if slot == NEVER else norm for slot, norm in enumerate(norms)]


def slot_weights(recipe: str = "ggsm", calibration: str | None = "zscore") -> SlotWeights:
    """`mask.json`; the warm-up's weights drift from 0.5 towards the frozen ones."""
    norms = np.array([np.nan if g is None else g for g in importance()])
    z = np.nan_to_num((norms - np.nanmean(norms)) / np.nanstd(norms) if calibration == "zscore" else norms)
    weight = {}
    for step in sorted({1, *range(10, STEPS + 1, 10), WARMUP + 1, STEPS}):
        learned = min(1.0, (step - 1) / 10)
        noise = np.random.default_rng(step).normal(0, 0.3 if step < WARMUP and calibration == "zscore" else 0, len(z))
        soft = 1 / (1 + np.exp(-learned * (z + noise)))
        weight[step] = tuple(((1 - alpha(step)) * soft + alpha(step)).tolist())
    return SlotWeights(
        recipe=recipe,
        slots=tuple(NAMES),
        weight=weight,
        importance=tuple(importance()) if recipe == "ggsm" else None,
        calibration=calibration,
    )


def log_json(gradients: bool = True) -> list[dict[str, float]]:
    """`log.json`."""
    rng = np.random.default_rng(1)
    names = {"bill": 0.01, "coupon": 0.008, "campaign": 0.013, "promo": 0.009, "tags": 0.02, "tabular": 0.05}
    names["text"] = 0.004
    entries = []
    for step in range(1, STEPS + 1):
        a = alpha(step)
        low, mean, high = ((1 - a) * w + a for w in (0.37, 0.48, 0.72))
        entry = {"step": step, "loss": 4.5 * step**-0.1, "accuracy": 0.3 * step / STEPS, "alpha": a}
        entry |= {"w_mean": mean, "w_p5": low, "w_p95": high}
        if gradients:
            entry |= {f"grad_norm/{k}": g * step**-0.35 * np.exp(rng.normal(0, 0.15)) for k, g in names.items()}
        entries.append(entry)
    return entries

"""How far the mask was open in each slot, as training records it and reports show it.

A slot is a place in the template: a tag, text, or `name[rank]`, where rank 0 is the newest event.
"""

from ray_ggsm.config import Record


class SlotWeights(Record):
    """The content of `mask.json`: weights of future keys per slot, at some steps."""

    recipe: str
    slots: tuple[str, ...]
    """Names of the slots."""
    weight: dict[int, tuple[float, ...]]
    """Step, counted from 1 -> weight of future keys per slot, in [0, 1]."""
    importance: tuple[float | None, ...] | None = None
    """GG-SM's importance g per slot at the end of its warm-up, a gradient norm, a relative one, or what opening the
    slot is worth (`grad_site`), None at slots without any token. None as a whole for recipes without importances."""
    grad_site: str | None = None
    """GG-SM's `grad_site`: where the gradients were taken; `mask` for what opening is worth. None for recipes without
    importances, and in older files, which have gradient norms."""
    row_scale: str = "kept"
    """GG-SM's `row_scale`: whether g is a gradient norm (`kept`) or relative to its row (`removed`)."""
    calibration: str | None = None
    """GG-SM's `calibration`; None for recipes without importances."""

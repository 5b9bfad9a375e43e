"""How far a mask was open slot by slot: what training records and the reports show.

A slot is a place in the template: a tag, text, or `name[rank]`, where rank 0 is the newest event.
"""

from ray_ggsm.config import Record


class SlotWeights(Record):
    """The content of `mask.json`: weights of future keys slot by slot."""

    recipe: str
    slots: tuple[str, ...]
    """One name per slot."""
    weight: dict[int, tuple[float, ...]]
    """Step, from 1 -> weight in [0, 1] of future keys per slot."""
    importance: tuple[float | None, ...] | None = None
    """GG-SM's gradient norm g per slot as the warm-up left it, None where no token ever was; None: there is none."""
    calibration: str | None = None
    """What the sigmoid took: "none" for the norm itself, "zscore", "rank"."""

"""Who writes pairs: a language model, or counting rules. The job asks all authors for the same four things."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from ray_ggsm.synthesis.asking import Spent
from ray_ggsm.synthesis.pairs import Pair, Written


@dataclass(frozen=True)
class Guide:
    """What pairs are written by."""

    pool: tuple[str, ...]
    """The scenarios."""
    rules: tuple[str, ...] = field(default=())
    """What hard pairs have in common (paper, 3.2, step 3)."""


class Author(Protocol):
    """Writes pairs."""

    @property
    def spent(self) -> Spent:
        """What that has cost so far."""

    def scenarios(self) -> tuple[str, ...]:
        """The seed pool (step 1)."""

    def write(self, rows: pa.Table, guide: Guide) -> Written:
        """Pairs of user rows (eq. 1-2)."""

    def induce(self, hard: Sequence[Pair]) -> tuple[str, ...]:
        """Rules that hard pairs have in common (step 3)."""

    def revise(self, rows: pa.Table, written: Written) -> Written:
        """The pairs that hold against the history, some of them rewritten (step 4)."""

"""What a shard of users tells of the train split's rows, bounded: values of features with `per`, numbers of labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_ggsm.config import InputError
from ray_ggsm.data.config import FeatureConfig
from ray_ggsm.data.database import TableRows

MOST_VALUES = 100_000
"""Different values of a feature that a shard tells of, its most frequent ones."""
MOST_NUMBERS = 1_000_000
"""Numbers that a quantile is taken of: all of them, or a sample of the users that does not depend on the shards."""


@dataclass(frozen=True)
class ValueCounts:
    """In how many snapshots of a shard the values of a feature occur."""

    counts: Counter[str]
    others: int
    """Most snapshots in which any other value occurs; 0: there is none."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a label, of at most MOST_NUMBERS snapshots."""

    order: np.ndarray
    """Hash of user and cutoff, uint64, by which snapshots are taken, the smallest first."""
    values: np.ndarray
    """Its number, float64."""

    @classmethod
    def of(cls, parts: Sequence["Numbers"]) -> "Numbers":
        """Those of all parts together."""
        order, values = (np.concatenate([getattr(p, name) for p in parts]) for name in ("order", "values"))
        if len(order) > MOST_NUMBERS:
            first = np.argpartition(order, MOST_NUMBERS - 1)[:MOST_NUMBERS]
            order, values = order[first], values[first]
        return cls(order, values)


@dataclass(frozen=True)
class Learned:
    """What one shard of users tells."""

    rows: dict[str, TableRows]
    """Table that was read -> rows that can be used, and that cannot."""
    values: dict[str, Numbers]
    """Label with a quantile -> its numbers."""
    counts: dict[str, ValueCounts]
    """Feature with `per` -> its values."""


def most_frequent(feature: FeatureConfig, parts: Sequence[ValueCounts]) -> tuple[str, ...]:
    """The values that occur in most snapshots of all parts; of equally frequent ones, the first in the alphabet.

    Raises:
        InputError: parts name only their most frequent values, and these do not decide.
    """
    total: Counter[str] = sum((part.counts for part in parts), Counter())
    found = sorted(total, key=lambda value: (-total[value], value))
    # a part may have seen a value that it does not name in as many snapshots as the rarest that it names
    unsure = {value: total[value] + sum(p.others for p in parts if value not in p.counts) for value in found}
    chosen, rest = found[: feature.top], found[slice(feature.top or len(found), None)]
    least = min((total[value] for value in chosen), default=0)
    unnamed = sum(part.others for part in parts)
    certain = len(chosen) == feature.top and all(unsure[v] == total[v] for v in chosen) and unnamed < least
    certain = certain and all(unsure[v] == total[v] or unsure[v] < least for v in rest)
    certain = certain or (len(parts) == 1 and len(chosen) == feature.top)
    if unnamed and not certain:
        raise InputError(
            f"data.features ({feature.name}).per: `{feature.per}` has more than {MOST_VALUES:,} different values, and "
            f"the {feature.top} most frequent ones cannot be told from others; use an expression with fewer values"
        )
    return tuple(chosen)

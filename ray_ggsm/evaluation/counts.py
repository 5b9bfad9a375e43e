"""How many rows an evaluation used, and how many it left out: rows without a vector, rows with an undefined label."""

from collections.abc import Mapping

import numpy as np

from ray_ggsm.config import Record
from ray_ggsm.evaluation.alignment import Aligned


class LabelCounts(Record):
    """Number of rows by the value of one label."""

    positive: int
    negative: int
    undefined: int


class SplitCounts(Record):
    """Number of rows of one split."""

    rows: int
    """Rows with a vector, used by the probes of all labels that are defined there."""
    without_vector: int
    """Label rows that were left out."""
    labels: dict[str, LabelCounts]
    """Label -> counts over `rows`."""


def count_rows(aligned: Mapping[str, Aligned]) -> dict[str, SplitCounts]:
    """Split -> its counts."""
    return {
        split: SplitCounts(
            rows=len(rows.users),
            without_vector=rows.without_vector,
            labels={
                name: LabelCounts(
                    positive=int((values_N == 1).sum()),
                    negative=int((values_N == 0).sum()),
                    undefined=int(np.isnan(values_N).sum()),
                )
                for name, values_N in rows.labels.items()
            },
        )
        for split, rows in aligned.items()
    }


def left_out(counts: Mapping[str, SplitCounts]) -> list[str]:
    """One sentence per split that rows were left out of."""
    sentences = []
    for split, count in counts.items():
        reasons = {"rows without a vector": count.without_vector}
        reasons |= {f"without label '{name}'": label.undefined for name, label in count.labels.items()}
        if any(reasons.values()):
            listed = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items() if number)
            sentences.append(f"{split}: {count.rows:,} rows; left out: {listed}")
    return sentences

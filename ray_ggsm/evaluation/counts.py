"""What an evaluation used and what it left out: labels that are undefined, rows that have no vector."""

from collections.abc import Mapping

import numpy as np

from ray_ggsm.config import Record
from ray_ggsm.evaluation.labels import Aligned


class LabelCounts(Record):
    """Rows by the value of one label."""

    positive: int
    negative: int
    undefined: int


class SplitCounts(Record):
    """Rows of one split."""

    rows: int
    without_vector: int
    labels: dict[str, LabelCounts]


def count_rows(aligned: Mapping[str, Aligned]) -> dict[str, SplitCounts]:
    """Per split: rows used, rows without a vector, and per label how many are positive, negative and undefined."""
    return {
        split: SplitCounts(
            rows=len(rows.users),
            without_vector=rows.missing,
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
    """One sentence per split of which something was left out."""
    sentences = []
    for split, count in counts.items():
        skipped = {"rows without a vector": count.without_vector}
        skipped |= {f"without label '{name}'": label.undefined for name, label in count.labels.items()}
        if any(skipped.values()):
            listed = ", ".join(f"{number:,} {what}" for what, number in skipped.items() if number)
            sentences.append(f"{split}: {count.rows:,} rows; skipped: {listed}")
    return sentences

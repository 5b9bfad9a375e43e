"""What an evaluation used and what it skipped: labels that are undefined, rows that have no vector."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ray_ggsm.evaluation.labels import Aligned


def count_rows(aligned: Mapping[str, Aligned]) -> dict[str, dict[str, Any]]:
    """Per stage: rows used, rows without a vector, and per label how many are positive, negative and undefined."""
    return {
        stage: {
            "rows": len(each.users),
            "without_vector": each.missing,
            "labels": {
                name: {
                    "positive": int((values_N == 1).sum()),
                    "negative": int((values_N == 0).sum()),
                    "undefined": int(np.isnan(values_N).sum()),
                }
                for name, values_N in each.labels.items()
            },
        }
        for stage, each in aligned.items()
    }


def left_out(counts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What `count_rows` counted as skipped, one sentence per stage that skipped something."""
    sentences = []
    for stage, count in counts.items():
        skipped = {"rows without a vector": count["without_vector"]}
        skipped |= {f"without label '{name}'": each["undefined"] for name, each in count["labels"].items()}
        if any(skipped.values()):
            said = ", ".join(f"{number:,} {what}" for what, number in skipped.items() if number)
            sentences.append(f"{stage}: {count['rows']:,} rows; skipped: {said}")
    return sentences

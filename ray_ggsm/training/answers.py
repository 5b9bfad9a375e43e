"""The answer tower's input: sampled future behaviour as vectors or text, or a given answer. Paper, 3.1 and A.3.

Event vectors let both towers speak one language from the first step; rendered text is the paper's form. Rows with an
`answer` of their own (query-answer pairs) use it as text.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ray_ggsm.config import Config
from ray_ggsm.model.batch import Batch, Collator, Events, sample_future_events


class AnswerConfig(Config):
    """What the user's vector is aligned with."""

    form: Literal["events", "text"] = "events"
    """Future events as vectors, or as one rendered text (or the row's own `answer`)."""
    max_events: int = Field(16, ge=1)
    """Future events drawn per row and epoch."""


def answer_batch(rows: pa.Table, collator: Collator, config: AnswerConfig, seed: int) -> Batch:
    """The answer tower's batch for training rows, in their order; `seed` draws the future events."""
    if config.form == "events":
        return collator.answer_events(sample_future_events(rows, collator.template, config.max_events, seed))
    return collator.answer_texts(_texts(rows, collator, config, seed))


def answer_lengths(rows: pa.Table, collator: Collator, config: AnswerConfig, seed: int) -> np.ndarray:
    """Tokens of each row in `answer_batch`, (B,)."""
    if config.form == "text":
        return np.array([len(ids) for ids in collator.text_ids(_texts(rows, collator, config, seed))])
    events = sample_future_events(rows, collator.template, config.max_events, seed)
    return events.count_MB.sum(axis=0) + 2 * len(collator.template.modalities) + 1  # tags around each, <ANSWER>


def _texts(rows: pa.Table, collator: Collator, config: AnswerConfig, seed: int) -> list[str]:
    if "answer" in rows.column_names and rows["answer"].null_count == 0:
        answers: list[str] = rows["answer"].to_pylist()
        return answers
    events = sample_future_events(rows, collator.template, config.max_events, seed)
    return render(events, [m.name for m in collator.template.modalities])


def render(events: Events, modalities: list[str]) -> list[str]:
    """One text per row, aggregated by type: `bill: milk, bread x2. coupon: soup.`; "nothing" without events."""
    texts = events.text_E.to_pylist()
    M, B = events.count_MB.shape
    sentences: list[list[str]] = [[] for _ in range(B)]
    start = 0
    for m in range(M):
        for b in range(B):
            end = start + int(events.count_MB[m, b])
            counts: dict[str, int] = {}
            for text in texts[start:end]:
                counts[text] = counts.get(text, 0) + 1
            if counts:
                items = (text if n == 1 else f"{text} x{n}" for text, n in counts.items())
                sentences[b].append(f"{modalities[m]}: {', '.join(items)}.")
            start = end
    return [" ".join(parts) or "nothing" for parts in sentences]

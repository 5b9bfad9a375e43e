"""The answer tower's input: sampled future behaviour as vectors or as text, or a given answer. Paper, 3.1 and A.3.

With event vectors, both towers speak one language from the first step; rendered text is the paper's form. Rows with an
`answer` (query-answer pairs, 3.2) use it as text, whatever the rows beside them use.

Legend: b rows, N answers to them (one per row and draw).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from ray_ggsm.config import Config
from ray_ggsm.hashing import hash64
from ray_ggsm.model.batch import Batch, Collator
from ray_ggsm.model.contract import Sequences
from ray_ggsm.model.events import Events, drawn_of_rows, future_events, row_keys, sample_future_events
from ray_ggsm.model.modality import Modality


class AnswerConfig(Config):
    """The answers that user vectors are aligned with."""

    form: Literal["events", "text"] = "events"
    """events: future events as vectors. text: future events rendered as one text. A row's own `answer` is text
    anyway."""
    max_events: int = Field(16, ge=1)
    """Number of future events drawn from a row at each step."""
    aggregated: bool = False
    """For texts: count equal events of the whole future first, and draw `max_events` of those, each with its number
    (paper, 3.1). false: draw events first, and count those that are equal."""
    draws: int = Field(1, ge=1, le=64)
    """Number of answers drawn from a row's future at each step, each of them a positive: the loss is the mean over the
    draws. A given answer is the same in all of them (and taken once where no row has a future to draw from)."""

    @model_validator(mode="after")
    def _texts_are_counted(self) -> Self:
        if self.aggregated and self.form != "text":
            raise ValueError("aggregated: only answers with form: text say how often something happened")
        return self


@dataclass(frozen=True)
class Answers:
    """The answers of b training rows: those of the first draw, then those of the second, and so on, N in all."""

    sequences: Sequences[Batch]
    id_N: np.ndarray
    """int64: equal for equal answers."""
    texts: list[str | None]
    """The texts, None for answers of events."""


def draw_answers(rows: pa.Table, collator: Collator, config: AnswerConfig, seed: int) -> Answers:
    """The answers of training rows; future events are drawn here, once, from `seed`.

    The first draw does not depend on the number of draws.
    """
    given_b = rows["answer"].is_valid().to_numpy() if "answer" in rows.column_names else np.zeros(len(rows), bool)
    if not given_b.any():
        return _of_futures(rows, collator, config, seed)
    texts = rows["answer"].filter(pa.array(given_b)).to_pylist()
    if given_b.all():
        return _texts(texts, collator)
    given = _texts(texts * config.draws, collator)
    futures = _of_futures(rows.filter(pa.array(~given_b)), collator, config, seed)
    return _merged(np.tile(given_b, config.draws), given, futures)


def _merged(given_N: np.ndarray, given: Answers, futures: Answers) -> Answers:
    """Given answers and those from futures, in the rows' order."""
    local_N, length_N, id_N = (np.zeros(len(given_N), dtype=np.int64) for _ in range(3))
    for chosen_N, answers in ((given_N, given), (~given_N, futures)):
        local_N[chosen_N] = np.arange(int(chosen_N.sum()))
        length_N[chosen_N], id_N[chosen_N] = answers.sequences.length_B, answers.id_N

    def batch(index_N: np.ndarray) -> Batch:
        answers = given if given_N[index_N[0]] else futures
        return answers.sequences.batch(local_N[index_N])

    texts = [(given if own else futures).texts[n] for own, n in zip(given_N, local_N, strict=True)]
    return Answers(Sequences(length_N, batch, given_N.astype(np.int64)), id_N, texts)


def _of_futures(rows: pa.Table, collator: Collator, config: AnswerConfig, seed: int) -> Answers:
    """Answers drawn from the rows' futures."""
    draw_N = np.repeat(np.arange(config.draws, dtype=np.uint64), len(rows))
    seed_N = np.uint64(seed) ^ (draw_N << np.uint64(40))
    repeated = pa.concat_tables([rows] * config.draws)
    if config.aggregated:
        return _texts(aggregated(repeated, collator.template.modalities, config.max_events, seed_N), collator)
    events = sample_future_events(repeated, collator.template.modalities, config.max_events, seed_N)
    if config.form == "events":
        return Answers(collator.event_sequences(events), _ids(_shown(events)), [None] * len(repeated))
    return _texts(render(events, [m.name for m in collator.template.modalities]), collator)


def _texts(texts: list[str], collator: Collator) -> Answers:
    return Answers(collator.text_sequences(texts), _ids(texts), list(texts))


def _ids(texts: list[str]) -> np.ndarray:
    ids: np.ndarray = hash64(texts).view(np.int64).copy()
    return ids


def _shown(events: Events) -> list[str]:
    """All that the answer tower sees of each row's events, as one text per row."""
    M, B = events.count_MB.shape
    bounds = np.concatenate([[0], np.cumsum(events.count_MB.reshape(-1))])
    details = [values.to_pylist() for values in (*events.fields.values(), events.parts_E) if values is not None]
    amounts = map(str, events.amount_E.tolist())
    seen = list(zip(events.text_E.to_pylist(), events.age_E.tolist(), amounts, *details, strict=True))
    return [repr([seen[bounds[m * B + b] : bounds[m * B + b + 1]] for m in range(M)]) for b in range(B)]


def render(events: Events, modalities: list[str]) -> list[str]:
    """One text per row, aggregated by type: `bill: milk, bread x2. coupon: soup.`; "nothing" without events."""
    M, B = events.count_MB.shape
    bounds = np.concatenate([[0], np.cumsum(events.count_MB.reshape(-1))]).tolist()
    texts = _texts_of(events)
    cells = [_counted(texts[start:end]) for start, end in pairwise(bounds)]
    sentences = [[f"{modalities[m]}: {cells[m * B + b]}." for m in range(M) if cells[m * B + b]] for b in range(B)]
    return [" ".join(parts) or "nothing" for parts in sentences]


def aggregated(rows: pa.Table, modalities: Sequence[Modality], limit: int, seed_N: np.ndarray) -> list[str]:
    """One text per row, as `render`, of `limit` things drawn from those of its whole future, each with its number."""
    names, events = [m.name for m in modalities], future_events(rows, modalities)
    modality_E, row_E = np.divmod(np.repeat(np.arange(events.count_MB.size), events.count_MB.reshape(-1)), len(rows))
    order = np.lexsort((modality_E, row_E))
    texts = _texts_of(events)
    counts: dict[tuple[int, int, str], int] = {}  # (row, modality, text), rows in their order
    for e in order.tolist():
        thing = int(row_E[e]), int(modality_E[e]), texts[e]
        counts[thing] = counts.get(thing, 0) + 1
    things = list(counts)
    row_T = np.array([row for row, _, _ in things], dtype=np.int64)
    drawn_T = drawn_of_rows(
        row_keys(rows) ^ seed_N, row_T, np.arange(len(row_T)) - np.searchsorted(row_T, row_T), limit
    )
    cells: dict[tuple[int, int], list[str]] = {}
    for thing, drawn in zip(things, drawn_T.tolist(), strict=True):
        if drawn:
            cells.setdefault(thing[:2], []).append(_with_number(thing[2], counts[thing]))
    return [
        " ".join(f"{name}: {', '.join(cells[b, m])}." for m, name in enumerate(names) if (b, m) in cells) or "nothing"
        for b in range(len(rows))
    ]


def _texts_of(events: Events) -> list[str]:
    """The text of each event; of an event without one, its text fields and parts: `Boston, milk, bread`."""
    texts = events.text_E.to_pylist()
    for e, text in enumerate(texts):
        if text is None:
            values = [column[e].as_py() for column in events.fields.values() if pa.types.is_string(column.type)]
            parts = events.parts_E[e].as_py() if events.parts_E is not None else None
            texts[e] = ", ".join([*filter(None, values), *(part["text"] for part in parts or ())]) or "something"
    return texts


def _counted(texts: list[str]) -> str:
    """The distinct texts in the order of their first appearance, with their numbers: `milk, bread x2`."""
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    return ", ".join(_with_number(text, n) for text, n in counts.items())


def _with_number(text: str, n: int) -> str:
    return text if n == 1 else f"{text} x{n}"

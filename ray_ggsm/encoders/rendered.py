"""User rows as text, for models that read nothing else: the newest event first, because models cut the end.

3 days ago, bill: milk 3.2, bread 1.1, discount 0.5; 12.4
10 days ago, coupon: frozen pizza, kind redeemed; 1
baskets_30: 4
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from ray_ggsm.model.batch import tabular_matrix
from ray_ggsm.model.events import Events, history_events
from ray_ggsm.model.modality import Modality


def row_texts(rows: pa.Table, modalities: Sequence[Modality], feature_names: Sequence[str], newest: int) -> list[str]:
    """The text of each row.

    Args:
        rows: user rows (`ray_ggsm.data.schema`).
        modalities: what is told of each kind of event.
        feature_names: names of the tabular features, told after the events; empty: they are not told.
        newest: the newest events of all modalities that are told.
    """
    values = _features(rows) if feature_names else [[]] * len(rows)
    numbers = [[f"{name}: {value:.6g}" for name, value in zip(feature_names, row, strict=True)] for row in values]
    told = event_lines(rows, modalities, newest)
    return ["\n".join([*some, *features]) for some, features in zip(told, numbers, strict=True)]


def event_lines(rows: pa.Table, modalities: Sequence[Modality], newest: int) -> list[list[str]]:
    """The newest events of each row, told one by one; only the text of an event itself can break its line."""
    events = history_events(rows, modalities)
    lines: list[list[tuple[float, int, str]]] = [[] for _ in range(len(rows))]
    told = _contents(events)
    first = 0
    for modality, count_B in zip(modalities, events.count_MB, strict=True):
        bounds = first + np.concatenate([[0], np.cumsum(count_B)])
        for row, (start, end) in enumerate(pairwise(bounds)):
            lines[row] += [
                (events.age_E[e], -e, f"{_ago(events.age_E[e])}, {modality.name}: {told[e]}") for e in range(start, end)
            ]
        first = int(bounds[-1])
    return [[line for *_, line in sorted(each)[:newest]] for each in lines]


def _features(rows: pa.Table) -> list[list[float]]:
    values: list[list[float]] = tabular_matrix(rows).tolist()
    return values


def _contents(events: Events) -> list[str]:
    """What each event says, (E)."""
    texts = events.text_E.to_pylist()
    parts = events.parts_E.to_pylist() if events.parts_E is not None else [None] * len(texts)
    fields = {name: values.to_pylist() for name, values in events.fields.items()}
    told = []
    for e, (text, part) in enumerate(zip(texts, parts, strict=True)):
        said = [text] if text is not None else []
        said += [f"{each['text']} {each['weight']:.6g}" for each in part or ()]
        said += [f"{name} {_value(values[e])}" for name, values in fields.items() if values[e] is not None]
        amount = events.amount_E[e]
        told.append(", ".join(said) + ("" if np.isnan(amount) else f"; {amount:.6g}"))
    return told


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _ago(age: float) -> str:
    days = int(age)
    return "today" if days == 0 else f"{days} day{'s' if days > 1 else ''} ago"

"""What explanations of some rows come to: a table of events, and the numbers of the report."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ray_ggsm.config import Record
from ray_ggsm.data.schema import TIME
from ray_ggsm.explaining.events import event_list
from ray_ggsm.explaining.explainer import METHODS, ExplainedRow, Method
from ray_ggsm.explaining.faithfulness import Completeness, Faithfulness
from ray_ggsm.model.modality import Modality

EVENTS = pa.schema(
    [
        pa.field("user_id", pa.string()),
        pa.field("as_of", TIME),
        pa.field("label", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("event", pa.int32()),
        pa.field("modality", pa.string()),
        pa.field("time", TIME),
        *(pa.field(method, pa.float64()) for method in METHODS),
    ]
)
"""One row per event that the encoder reads. `event` counts those of a row, modality by modality, oldest first; a method
that was not used is null."""
TEXT = pa.field("text", pa.string())
"""A further column, only where it is asked for: texts of events are as sensitive as the events themselves."""


class ExplainReport(Record):
    """The content of `explain.json`."""

    label: str
    probe: str
    """Its kind."""
    encoder: str
    """Digest of the encoder."""
    users: int
    events: int
    too_few_events: int
    """Users without a deletion test, because they have no more events than it takes away."""
    deleted: int
    """Events that the deletion test takes away together."""
    deletion: dict[Method, Faithfulness]
    completeness: Completeness | None
    """Of integrated gradients; None without them."""
    by_modality: dict[Method, dict[str, float]]
    """Method -> modality -> mean absolute effect of an event."""


def events_table(rows: Sequence[ExplainedRow], modalities: Sequence[Modality], label: str, texts: bool) -> pa.Table:
    """The events of explained rows (EVENTS, and TEXT if `texts`)."""
    schema = EVENTS.append(TEXT) if texts else EVENTS
    return pa.concat_tables([schema.empty_table(), *(_events(row, modalities, label, texts) for row in rows)])


def _events(row: ExplainedRow, modalities: Sequence[Modality], label: str, texts: bool) -> pa.Table:
    listed = event_list(row.rows, modalities, texts)
    E, who = len(listed), row.rows.select(["user_id", "as_of"]).to_pylist()[0]
    columns = {name: [value] * E for name, value in (who | {"label": label, "score": row.score}).items()}
    columns |= {name: [each[name] for each in listed] for name in ("modality", "time", *(["text"] if texts else []))}
    effects = {method: pa.array(row.effects.get(method, [None] * E), pa.float64()) for method in METHODS}
    schema = EVENTS.append(TEXT) if texts else EVENTS
    return pa.table(columns | {"event": list(range(E))} | effects, schema)


def by_modality(events: pa.Table) -> dict[Method, dict[str, float]]:
    """Mean absolute effect of an event, by method and modality."""
    names = events["modality"].to_numpy(zero_copy_only=False)
    found: dict[Method, dict[str, float]] = {}
    for method in METHODS:
        effect = np.abs(events[method].to_numpy(zero_copy_only=False).astype(float))
        if len(effect) and not np.isnan(effect).any():
            found[method] = {str(name): float(effect[names == name].mean()) for name in np.unique(names)}
    return found

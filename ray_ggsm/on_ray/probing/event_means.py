"""The mean event vector of each user row's history: vectors that nobody trains, a baseline of studies."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.model.contents import contents_of
from ray_ggsm.model.description import SavedEncoder
from ray_ggsm.model.event_vectors import find
from ray_ggsm.model.events import history_events
from ray_ggsm.stages import Pipeline

CONTENTS_AT_ONCE = 100_000
"""Number of weighted vectors in memory at once."""


def event_means(pipeline: Pipeline, rows: str) -> pa.Table:
    """`user_id`, `as_of` and `vector` of the user rows at a location; zeros if a history is empty.

    Legend: B rows, E events, X contents of events, H width of event vectors, M modalities.
    """
    modalities = pipeline.experiment.modalities
    if pipeline.experiment.model.event_encoder is None:
        raise InputError("event mean: the encoder of this experiment reads no event vectors, so they have no mean")
    events_digest = SavedEncoder.read(pipeline.train.encoder).description.event_encoder_digest
    location = storage.join(pipeline.event_vectors, events_digest)
    lookup = find(location, pipeline.experiment.ray.cache_directory).open()
    fs, path = storage.arrow_filesystem(rows)
    columns = ["user_id", "as_of", *(modality.name for modality in modalities)]
    table = pq.read_table(path, columns=columns, filesystem=fs).combine_chunks()
    events = history_events(table, modalities)
    sums_BH = np.zeros((len(table), lookup.width), dtype=np.float32)
    row_E = np.concatenate([np.repeat(np.arange(len(table)), count_B) for count_B in events.count_MB])
    contents = contents_of(events, lookup, (), ())
    row_X = np.repeat(row_E, np.diff(contents.first_E.numpy(), append=len(contents.content_X)))
    for start in range(0, len(row_X), CONTENTS_AT_ONCE):
        part = slice(start, start + CONTENTS_AT_ONCE)
        weighted_XH = contents.vector_PH[contents.content_X[part]] * contents.weight_X[part, None]
        np.add.at(sums_BH, row_X[part], weighted_XH.numpy())
    mean_BH = sums_BH / np.maximum(np.bincount(row_E, minlength=len(table)), 1)[:, None]
    vectors = pa.array(list(mean_BH.astype(np.float32)), pa.list_(pa.float32()))
    return table.select(["user_id", "as_of"]).append_column("vector", vectors)

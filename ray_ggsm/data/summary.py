"""What prepare made, in one file: the counts of all shards added up, names, thresholds and vocabularies."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import Fitted, features
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import source_fingerprint
from ray_ggsm.data.validate import enforce_share


def write_summary(config: DataConfig, fitted: Fitted, counts: list[dict[str, Any]], location: str) -> dict[str, Any]:
    """Write data.json from the counts of all shards and return its content.

    Raises:
        InputError: a stage has no rows, or too many user rows were rejected.
    """
    rows = _add([c["rows"] for c in counts])
    bad = sum(_add([c["rejected_rows"] for c in counts]).values())
    enforce_share(bad, bad + sum(rows.values()), config.max_bad_share, storage.join(location, "rows"))
    for stage, total in rows.items():
        if not total:
            raise InputError(
                f"data.stages.{stage}: no user has a row; check the cutoffs, the user split and minimum_events"
            )
    labels = {
        stage: {name: [sum(c["labels"][stage][name][i] for c in counts) for i in (0, 1)] for name in config.labels}
        for stage in config.stages
    }
    summary = {
        "rows": rows,
        "label_rates": {s: {n: p / d if d else None for n, (p, d) in each.items()} for s, each in labels.items()},
        "labels_defined": {s: {n: d for n, (_, d) in each.items()} for s, each in labels.items()},
        "label_groups": {name: label.group for name, label in config.labels.items()},
        "features": [feature.name for feature in features(config, fitted)],
        "modalities": {name: {"keep": modality.keep} for name, modality in config.modalities.items()},
        "events_cut": _add([c["cut"] for c in counts]),
        "distinct_texts": _distinct_texts(config, location),
        "dead_letters": _add([c["dead_letters"] for c in counts]),
        "source": source_fingerprint(config),
        **fitted.model_dump(mode="json"),
    }
    storage.write_json(storage.join(location, "data.json"), summary)
    return summary


def _add(parts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part.get(name, 0) for part in parts) for name in sorted({n for part in parts for n in part})}


def _distinct_texts(config: DataConfig, location: str) -> dict[str, int]:
    """How many different texts each modality has over all stages and shards."""
    texts: dict[str, pa.Array] = {name: pa.array([], pa.string()) for name in config.modalities}
    for file in storage.list_files(storage.join(location, "rows"), ".parquet"):
        fs, path = storage.arrow_filesystem(file)
        for name in config.modalities:
            column = pq.read_table(path, columns=[name], filesystem=fs)[name].combine_chunks()
            texts[name] = pc.unique(pa.concat_arrays([texts[name], pc.struct_field(column.flatten(), "text")]))
    return {name: len(values) for name, values in texts.items()}

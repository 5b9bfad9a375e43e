"""From raw events to user rows, labels and one summary, shard by shard.

Everything a shard needs is its users' events and what `fit` learned, so shards run independently and in any order:
`fit` once, `write_shard` for each shard, `write_summary` at the end. The output below one location:

    rows/<stage>/part-*.parquet     user rows (`ray_ggsm.data.schema`) in a shuffled, repeatable order
    labels/<stage>/part-*.parquet   user_id, as_of, one nullable boolean per label
    dead_letters/part-*.parquet     what was rejected, and why
    data.json                       counts, label rates, names, thresholds, vocabularies
"""

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import (
    Fitted,
    aggregate,
    aggregate_per,
    check_aggregates,
    create_features,
    create_labels,
    feature_windows,
    features,
    label_window,
)
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import enforce_table_shares, opened, source_fingerprint, table_keys
from ray_ggsm.data.events import check_modalities, create_events, create_sequences
from ray_ggsm.data.schema import DEAD_LETTER, label_schema, user_row_schema
from ray_ggsm.data.snapshots import create_snapshots
from ray_ggsm.data.sql import quote, text
from ray_ggsm.data.validate import validate

ROW_GROUP = 1024
"""Rows that a reader takes at a time."""


def write_shard(
    config: DataConfig, fitted: Fitted, shard: int, shards: int, location: str, *, threads: int | None = None
) -> dict[str, Any]:
    """Write the rows, labels and dead letters of one shard of users; the same input gives the same files.

    Args:
        config: what to prepare.
        fitted: the result of `fit`.
        shard: position of the shard, of `shards`.
        shards: number of shards.
        location: where the output goes, local or s3://; files of the same shard are replaced.
        threads: threads DuckDB may use; None: all cores.

    Returns:
        Counts that `write_summary` adds up: rows, labels and dead letters of the shard.
    """
    part = f"part-{shard:05d}-of-{shards:05d}.parquet"
    with opened(config, shard, shards, threads=threads) as connection:
        create_events(connection, config)
        create_snapshots(connection, config, list(config.stages))
        size = create_features(connection, config, fitted)
        create_labels(connection, config, fitted)
        counts: dict[str, Any] = {"cut": create_sequences(connection, config), "rows": {}, "labels": {}}
        rejected = [_fetch(connection, "SELECT * EXCLUDE (\"table\") FROM rejected ORDER BY ALL").cast(DEAD_LETTER)]
        names = [feature.name for feature in features(config, fitted)]
        for stage in config.stages:
            schema = user_row_schema(list(config.modalities), names, stage == "pretrain")
            rows, labels = _stage_tables(connection, config, stage, schema)
            good, bad = validate(rows, list(config.modalities), size, max_text_length=config.max_text_length, stage=stage)
            kept = pc.is_in(rows["row"], value_set=good["row"].combine_chunks())
            labels = labels.filter(kept)
            _write(good.drop_columns("row"), storage.join(location, "rows", stage, part))
            _write(labels, storage.join(location, "labels", stage, part))
            rejected.append(bad)
            counts["rows"][stage] = len(good)
            counts["labels"][stage] = _label_counts(labels, list(config.labels))
    letters = pa.concat_tables(rejected)
    _write(letters, storage.join(location, "dead_letters", part))
    counts["dead_letters"] = _value_counts(letters["reason"])
    return counts


def fingerprint(config: DataConfig) -> dict[str, dict[str, str]]:
    """What the source's content depends on: per table its files with size and time, or the version of a package. Cheap."""
    return source_fingerprint(config)


def check(config: DataConfig) -> None:
    """Check everything that can be known without reading the events: files, columns, and every SQL expression.

    Raises:
        InputError: naming the config key and the reason.
    """
    _check_tables(config)
    with opened(config, empty=True) as connection:
        create_snapshots(connection, config, list(config.stages))
        check_modalities(connection, config)
        check_aggregates(connection, config)
        names = [feature.name for feature in features(config, _no_vocabularies(config))]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise InputError(f"data.features: '{min(repeated)}' is given twice; use another name")


def fit(config: DataConfig, shards: int = 1, *, threads: int | None = None) -> Fitted:
    """Learn thresholds and vocabularies from the pretrain rows, and stop when too many raw events are unusable.

    Args:
        config: what to prepare.
        shards: read the users in this many parts, one after the other, to bound the memory.
        threads: threads DuckDB may use; None: all cores.

    Raises:
        InputError: an expression is wrong, too many events are bad, or there is nothing to learn from.
    """
    check(config)
    values: dict[str, list[np.ndarray]] = {name: [] for name, label in config.labels.items() if label.quantile is not None}
    counts: dict[str, dict[str, int]] = {feature.name: {} for feature in config.features if feature.per is not None}
    for shard in range(shards):
        with opened(config, shard, shards, threads=threads) as connection:
            create_events(connection, config)
            enforce_table_shares(connection, config)
            create_snapshots(connection, config, ["pretrain"])
            for name in values:
                values[name].append(_label_values(connection, config, name))
            _count_values(connection, config, counts)
    return Fitted(
        thresholds={name: _quantile(config, name, np.concatenate(parts)) for name, parts in values.items()},
        vocabularies={
            feature.name: tuple(sorted(counts[feature.name], key=lambda v: (-counts[feature.name][v], v))[: feature.top])
            for feature in config.features
            if feature.per is not None
        },
    )


def write_summary(config: DataConfig, fitted: Fitted, counts: list[dict[str, Any]], location: str) -> dict[str, Any]:
    """Write data.json from the counts of all shards and return its content.

    Raises:
        InputError: a stage has no rows, or too many user rows were rejected.
    """
    rows = {stage: sum(c["rows"][stage] for c in counts) for stage in config.stages}
    for stage, total in rows.items():
        if not total:
            raise InputError(f"data.stages.{stage}: no user has a row; check the cutoffs, the user split and minimum_events")
    labels = {
        stage: {
            name: [sum(c["labels"][stage][name][i] for c in counts) for i in (0, 1)] for name in config.labels
        }
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
        "source": fingerprint(config),
        **fitted.model_dump(mode="json"),
    }
    storage.write_json(storage.join(location, "data.json"), summary)
    return summary


def _check_tables(config: DataConfig) -> None:
    tables = table_keys(config)
    users = {
        **{f"modalities.{name}": m.table for name, m in config.modalities.items()},
        **{f"features.{i}": f.table for i, f in enumerate(config.features)},
        **{f"labels.{name}": label.table for name, label in config.labels.items()},
        "snapshots.minimum_events": config.snapshots.minimum_events.table,
    }
    for key, table in users.items():
        if table not in tables:
            raise InputError(f"data.{key}.table: there is no table '{table}'; the source has {', '.join(tables)}")
    dated = {key: table for key, table in users.items() if not key.startswith("features")}
    for i, feature in enumerate(config.features):
        if feature.windows is not None:
            dated[f"features.{i}"] = feature.table
    for key, table in dated.items():
        if tables[table][1] is None:
            raise InputError(f"data.{key}.table: table '{table}' is static (it has no time column) and cannot be used over a window")


def _no_vocabularies(config: DataConfig) -> Fitted:
    return Fitted(thresholds={}, vocabularies={feature.name: ("",) for feature in config.features})


def _label_values(connection: duckdb.DuckDBPyConnection, config: DataConfig, name: str) -> np.ndarray:
    label = config.labels[name]
    keys = table_keys(config)[label.table]
    query = aggregate(label_window(config, label), keys, [label.sql, label.defined_if or "true"])
    values = _fetch(connection, f"SELECT c0::double AS value FROM ({query}) WHERE c1 AND c0 IS NOT NULL")["value"]
    return np.asarray(values.to_numpy())


def _count_values(connection: duckdb.DuckDBPyConnection, config: DataConfig, counts: dict[str, dict[str, int]]) -> None:
    """Add, for each `per` expression, in how many snapshots each of its values occurs."""
    for feature in config.features:
        if feature.per is None:
            continue
        window = max(feature_windows(config, feature), key=lambda w: w.days)
        query = aggregate_per(window, table_keys(config)[feature.table], "count(*)", feature.per)
        for value, count in connection.execute(f"SELECT value, count(*) FROM ({query}) GROUP BY value").fetchall():
            counts[feature.name][value] = counts[feature.name].get(value, 0) + count


def _quantile(config: DataConfig, name: str, values: np.ndarray) -> float:
    quantile = config.labels[name].quantile
    if not len(values) or quantile is None:
        raise InputError(f"data.labels.{name}: no pretrain row has a value, so there is no quantile; check sql and defined_if")
    return float(np.quantile(values, quantile))


def _stage_tables(
    connection: duckdb.DuckDBPyConnection, config: DataConfig, stage: str, schema: pa.Schema
) -> tuple[pa.Table, pa.Table]:
    """User rows (with the column `row`) and labels of a stage, in the same order."""
    columns = ", ".join(quote(name) for name in schema.names)
    labels = "".join(", " + quote(name) for name in config.labels)
    here = f"WHERE stage = {text(stage)} ORDER BY row"
    rows = _fetch(
        connection, f"SELECT row, {columns} FROM snapshots JOIN sequences USING (row) JOIN features USING (row) {here}"
    )
    answers = _fetch(connection, f"SELECT user_id, as_of{labels} FROM snapshots JOIN labels USING (row) {here}")
    with_row = pa.schema([pa.field("row", pa.int64()), *schema])
    return rows.cast(with_row), answers.cast(label_schema(list(config.labels)))


def _fetch(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    return connection.sql(query).to_arrow_table()


def _label_counts(labels: pa.Table, names: list[str]) -> dict[str, list[int]]:
    """Per label: positives and defined rows."""
    return {name: [pc.sum(labels[name]).as_py() or 0, len(labels) - labels[name].null_count] for name in names}


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _add(parts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part.get(name, 0) for part in parts) for name in sorted({n for part in parts for n in part})}


def _write(table: pa.Table, location: str) -> None:
    """Write a Parquet file; a table without rows leaves no file."""
    storage.remove(location)
    if not len(table):
        return
    fs, path = storage.arrow_filesystem(location)
    fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
    pq.write_table(table, path, filesystem=fs, row_group_size=ROW_GROUP, compression="zstd")


def _distinct_texts(config: DataConfig, location: str) -> dict[str, int]:
    """How many different texts each modality has over all stages and shards."""
    texts: dict[str, pa.Array] = {name: pa.array([], pa.string()) for name in config.modalities}
    for file in storage.list_files(storage.join(location, "rows"), ".parquet"):
        fs, path = storage.arrow_filesystem(file)
        for name in config.modalities:
            column = pq.read_table(path, columns=[name], filesystem=fs)[name].combine_chunks()
            texts[name] = pc.unique(pa.concat_arrays([texts[name], pc.struct_field(column.flatten(), "text")]))
    return {name: len(values) for name, values in texts.items()}

"""Check the whole configuration against the tables, then learn from the rows of the train split, before any shard."""

from collections.abc import Mapping

import duckdb
import numpy as np

from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import Fitted, aggregate_per, check_aggregates, feature_windows, label_query
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import Database, enforce_table_shares, opened
from ray_ggsm.data.events import check_modalities, create_events
from ray_ggsm.data.snapshots import create_snapshots
from ray_ggsm.data.sources import source_of
from ray_ggsm.data.sources.source import Keys


def check(config: DataConfig) -> None:
    """Check everything that the first events tell: files, columns, and every SQL expression.

    Raises:
        InputError: naming the config key and the reason.
    """
    _check_tables(config, source_of(config).tables())
    with opened(config, empty=True) as database:
        _check_expressions(database, config)


def _check_expressions(database: Database, config: DataConfig) -> None:
    create_snapshots(database, config, config.splits)
    check_modalities(database, config)
    check_aggregates(database, config)


def fit(config: DataConfig, shards: int = 1, *, threads: int | None = None) -> Fitted:
    """Learn thresholds and vocabularies from the train split's rows, and stop when too many raw events are unusable.

    Args:
        config: what to prepare.
        shards: read the users in this many parts, one after the other, to bound the memory.
        threads: threads DuckDB may use; None: all cores.

    Raises:
        InputError: an expression is wrong, too many events are bad, or there is nothing to learn from.
    """
    _check_tables(config, source_of(config).tables())
    with duckdb.connect() as connection:
        types = source_of(config).column_types(connection)
    with opened(config, empty=True, types=types) as database:
        _check_expressions(database, config)
    values: dict[str, list[np.ndarray]] = {
        name: [] for name, label in config.labels.items() if label.quantile is not None
    }
    counts: dict[str, dict[str, int]] = {feature.name: {} for feature in config.features if feature.per is not None}
    train = config.splits[config.train_split]
    learned_from = train.model_copy(update={"cutoffs": train.learn_from or train.cutoffs})
    for shard in range(shards):
        with opened(config, shard, shards, types=types, threads=threads) as database:
            create_events(database, config)
            enforce_table_shares(database, config.max_bad_share)
            create_snapshots(database, config, {config.train_split: learned_from})
            for name in values:
                values[name].append(_label_values(database, config, name))
            _count_values(database, config, counts)
    return Fitted(
        types=types,
        thresholds={name: _quantile(config, name, np.concatenate(parts)) for name, parts in values.items()},
        vocabularies={
            feature.name: tuple(
                sorted(counts[feature.name], key=lambda v: (-counts[feature.name][v], v))[: feature.top]
            )
            for feature in config.features
            if feature.per is not None
        },
    )


def _check_tables(config: DataConfig, tables: Mapping[str, Keys]) -> None:
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
        if tables[table].time is None:
            raise InputError(
                f"data.{key}.table: table '{table}' is static (it has no time column) and cannot be used over a window"
            )


def _label_values(database: Database, config: DataConfig, name: str) -> np.ndarray:
    query = label_query(database, config, config.labels[name])
    found = database.connection.sql(f"SELECT c0::float::double AS value FROM ({query}) WHERE c1 AND c0 IS NOT NULL")
    return np.asarray(found.to_arrow_table()["value"].to_numpy())


def _count_values(database: Database, config: DataConfig, counts: dict[str, dict[str, int]]) -> None:
    """Add, for each `per` expression, in how many snapshots each of its values occurs."""
    for feature in config.features:
        if feature.per is None:
            continue
        window = max(feature_windows(config, feature), key=lambda w: w.days)
        query = aggregate_per(window, database.tables[feature.table], "count(*)", feature.per)
        found = database.connection.execute(f"SELECT value, count(*) FROM ({query}) GROUP BY value")
        for value, count in found.fetchall():
            counts[feature.name][value] = counts[feature.name].get(value, 0) + count


def _quantile(config: DataConfig, name: str, values: np.ndarray) -> float:
    quantile = config.labels[name].quantile
    if not len(values) or quantile is None:
        raise InputError(
            f"data.labels.{name}: no training row has a value, so there is no quantile; check sql and defined_if"
        )
    return float(np.quantile(values, quantile))

"""Check the whole configuration against the tables, then learn from the rows of the train split, before any shard."""

from collections import Counter
from collections.abc import Mapping, Sequence

import duckdb
import numpy as np

from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import Fitted, aggregate_per, check_aggregates, feature_windows, label_query
from ray_ggsm.data.config import DataConfig, FeatureConfig
from ray_ggsm.data.database import Database, count_rows, enforce_table_shares, opened
from ray_ggsm.data.definition import RowDefinition, define, given
from ray_ggsm.data.events import check_modalities
from ray_ggsm.data.learned import MOST_NUMBERS, MOST_VALUES, Learned, Numbers, ValueCounts, most_frequent
from ray_ggsm.data.snapshots import SHUFFLED, create_snapshots
from ray_ggsm.data.source_choice import source_of
from ray_ggsm.data.sources.column_types import Types
from ray_ggsm.data.sources.source import Keys, Source
from ray_ggsm.data.sql import as_float
from ray_ggsm.data.zones import check_zone


def check(config: DataConfig) -> None:
    """Check everything that the first events tell: files, columns, and every SQL expression.

    Raises:
        InputError: naming the config key and the reason.
    """
    _check_expressions(config, _definition_and_types(config, whole=False)[1])


def _check_expressions(config: DataConfig, types: Types, source: Source | None = None) -> None:
    try:
        with opened(config, empty=True, types=types, source=source) as database:
            check_zone(database.connection, config)
            create_snapshots(database, config, config.splits)
            check_modalities(database, config)
            check_aggregates(database, config)
    except InputError as error:
        raise InputError(f"{error}{(source or source_of(config)).hint(types, str(error))}") from None


def fit(config: DataConfig, shards: int = 1, *, threads: int | None = None) -> Fitted:
    """Learn thresholds and vocabularies from the train split's rows.

    Args:
        config: what to prepare.
        shards: read the users in this many parts, one after the other, to bound the memory.
        threads: threads DuckDB may use; None: all cores.

    Raises:
        InputError: an expression is wrong, too many records are bad, or there is nothing to learn from.
    """
    types = types_of(config)
    return combine(config, types, [learn(config, types, shard, shards, threads=threads) for shard in range(shards)])


def types_of(config: DataConfig, source: Source | None = None) -> Types:
    """The types of the columns that expressions use, after a check of every expression; reads the texts of files.

    Args:
        config: what to prepare.
        source: where events come from; None: what the config names.

    Raises:
        InputError: an expression is wrong, or the source is not as the config says.
    """
    types = _definition_and_types(config, whole=True, source=source)[1]
    _check_expressions(config, types, source)
    return types


def combine(config: DataConfig, types: Types, learned: Sequence[Learned]) -> Fitted:
    """What all shards tell together.

    Args:
        config: what to prepare.
        types: those of `types_of`.
        learned: what `learn` found in each shard.

    Raises:
        InputError: too many records of a table are bad, or there is nothing to learn from.
    """
    enforce_table_shares([part.rows for part in learned], config.max_bad_share)
    wanted = given(config)
    vocabularies = {
        feature.name: most_frequent(feature, [part.counts[feature.name] for part in learned])
        for feature in _learned_features(config)
    }
    thresholds = {
        name: _quantile(config, name, Numbers.of([part.values[name] for part in learned]).values)
        for name, label in config.labels.items()
        if label.quantile is not None
    }
    return Fitted(thresholds=thresholds, definition=wanted or define(config, types, vocabularies), types=types)


def column_types(config: DataConfig) -> Types:
    """The types of the columns that expressions use; reads their values.

    Raises:
        InputError: the source is not as the config says.
    """
    return _definition_and_types(config, whole=True)[1]


def _definition_and_types(
    config: DataConfig, whole: bool, source: Source | None = None
) -> tuple[RowDefinition | None, Types]:
    """The definition that the config names, if it does, and the types of columns: its own, else what values tell."""
    source, wanted = source or source_of(config), given(config)
    _check_tables(config, source.tables())
    with duckdb.connect() as connection:
        if wanted is None:
            return None, source.column_types(connection, whole)
        source.check_types(connection, wanted.types, str(config.definition))
        found = source.column_types(connection, whole)
    return wanted, {name: kinds | wanted.types.get(name, {}) for name, kinds in found.items()}


def learn(
    config: DataConfig,
    types: Types,
    shard: int,
    shards: int,
    *,
    threads: int | None = None,
    source: Source | None = None,
) -> Learned:
    """What the rows of the train split tell in one shard of users.

    Args:
        config: what to prepare.
        types: those of `types_of`.
        shard, shards: position of the shard, and number of shards.
        threads: threads DuckDB may use; None: all cores.
        source: where the shard's events come from; None: what the config names.
    """
    labels = {name: label for name, label in config.labels.items() if label.quantile is not None}
    per = _learned_features(config)
    if not labels and not per:
        return Learned({}, {}, {})
    tables = {
        *config.snapshot_tables,
        *(label.table for label in labels.values()),
        *(f.table for f in per),
    }
    train = config.splits[config.train_split]
    learned_from = train.model_copy(
        update={"cutoffs": train.learn_from or train.cutoffs, "users": train.learn_from_users or train.users}
    )
    with opened(
        config, shard, shards, types=types, threads=threads, source=source, only=tables, texts=False
    ) as database:
        rows = count_rows(database, config.max_bad_share, tables)
        create_snapshots(database, config, {config.train_split: learned_from})
        values = {name: _label_values(database, config, name) for name in labels}
        counts = {f.name: _value_counts(database, config, f, str(f.per)) for f in per}
    return Learned(rows, values, counts)


def _learned_features(config: DataConfig) -> list[FeatureConfig]:
    """Features whose vocabularies are learned: those of a definition are given."""
    return [f for f in config.features if f.per is not None and config.definition is None]


def _check_tables(config: DataConfig, tables: Mapping[str, Keys]) -> None:
    users = {
        **{f"modalities.{name}": m.table for name, m in config.modalities.items()},
        **{f"features.{i}": f.table for i, f in enumerate(config.features)},
        **{f"labels.{name}": label.table for name, label in config.labels.items()},
        "snapshots.minimum_events": config.snapshots.minimum_events.table,
    }
    if config.users.test_table is not None and config.users.test_table not in tables:
        raise InputError(
            f"data.users.test_table: there is no table '{config.users.test_table}'; the source has {', '.join(tables)}"
        )
    for key, table in users.items():
        if table not in tables:
            raise InputError(f"data.{key}.table: there is no table '{table}'; the source has {', '.join(tables)}")
    dated = {key: table for key, table in users.items() if key.startswith(("modalities", "snapshots"))}
    for i, feature in enumerate(config.features):
        if feature.windows is not None:
            dated[f"features.{i}"] = feature.table
    for key, table in dated.items():
        if tables[table].time is None:
            raise InputError(
                f"data.{key}.table: table '{table}' is static (it has no time column) and cannot be used over a window"
            )


def _label_values(database: Database, config: DataConfig, name: str) -> Numbers:
    query = label_query(database, config, config.labels[name])
    numbers = f"SELECT row, ({as_float('c0')})::DOUBLE AS value FROM ({query}) WHERE c1"
    order = f"('0x' || left({SHUFFLED}, 16))::UBIGINT"
    found = database.connection.sql(
        f"SELECT {order} AS n, value FROM ({numbers}) JOIN snapshots USING (row) WHERE isfinite(value) "
        f"ORDER BY n LIMIT {MOST_NUMBERS}"
    ).to_arrow_table()
    return Numbers(*(found[column].to_numpy() for column in ("n", "value")))


def _value_counts(database: Database, config: DataConfig, feature: FeatureConfig, per: str) -> ValueCounts:
    window = max(feature_windows(config, feature), key=lambda w: w.days)
    query = aggregate_per(window, database.tables[feature.table], "count(*)", per)
    found = database.connection.execute(
        f"SELECT value, count(*) AS n FROM ({query}) GROUP BY value ORDER BY n DESC, value LIMIT {MOST_VALUES + 1}"
    ).fetchall()
    others = found.pop()[1] if len(found) > MOST_VALUES else 0
    return ValueCounts(Counter(dict(found)), others)


def _quantile(config: DataConfig, name: str, values: np.ndarray) -> float:
    quantile = config.labels[name].quantile
    if not len(values) or quantile is None:
        raise InputError(
            f"data.labels.{name}: no training row has a value, so there is no quantile; check sql and defined_if"
        )
    return float(np.quantile(values, quantile))

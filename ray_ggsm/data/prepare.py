"""From raw events to user rows, labels and one summary, shard by shard: the steps of prepare.

Everything a shard needs is its users' events and what `fit` learned, so shards run independently and in any order:
`types_of` once, `learn` for each shard, `combine` (`fit` is these three), `write_shard` for each shard, `write_summary`
at the end. The output below one location:

    rows/<split>/part-*.parquet     user rows (`ray_ggsm.data.schema`) in a shuffled, repeatable order
    labels/<split>/part-*.parquet   user_id, as_of, one nullable boolean per label
    dead_letters/part-*.parquet     what was rejected, and why
    rows.json                       what a user row is (`ray_ggsm.data.definition`)
    data.json                       counts, label rates, names, thresholds, vocabularies
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import Fitted, create_features, create_labels, features
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import Database, count_rows, opened
from ray_ggsm.data.definition import future_of, key_of, read_file
from ray_ggsm.data.events import create_events, create_sequences
from ray_ggsm.data.fit import check, combine, fit, learn, types_of
from ray_ggsm.data.pseudonyms import key_id, pseudonyms
from ray_ggsm.data.schema import DEAD_LETTER, feature_names, label_schema, user_row_schema
from ray_ggsm.data.snapshots import create_snapshots
from ray_ggsm.data.source_choice import source_of
from ray_ggsm.data.sources.source import Source, State
from ray_ggsm.data.sql import quote, text
from ray_ggsm.data.summary import LabelCount, ShardCounts, write_summary
from ray_ggsm.data.validate import validate

__all__ = ["ROWS_FORMAT", "check", "combine", "fit", "input_state", "learn", "types_of", "write_shard", "write_summary"]

ROWS_FORMAT = "ages follow the calendar"
"""What prepare makes of the same input; another text means other rows."""
ROW_GROUP = 1024
"""Rows that a reader takes at a time."""


def input_state(config: DataConfig) -> State:
    """What the rows depend on beside the config: files with size and time, or the version of a package, and which
    definition and key of pseudonyms the config names. Cheap."""
    state, key = source_of(config).state(), key_of(config)
    if config.definition is not None:
        state |= {"definition": {"digest": read_file(config.definition).digest}}
    return state if key is None else state | {"users": {"key": key_id(key)}}


def write_shard(
    config: DataConfig,
    fitted: Fitted,
    shard: int,
    shards: int,
    location: str,
    *,
    threads: int | None = None,
    source: Source | None = None,
) -> ShardCounts:
    """Write the rows, labels and dead letters of one shard of users; the same input gives the same files.

    Args:
        config: what to prepare.
        fitted: the result of `fit`.
        shard, shards: position of the shard, and number of shards.
        location: where the output goes, local or s3://; files of the same shard are replaced.
        threads: threads DuckDB may use; None: all cores.
        source: where the shard's events come from; None: what the config names.

    Returns:
        What `write_summary` adds up.
    """
    part = f"part-{shard:05d}-of-{shards:05d}.parquet"
    rows: dict[str, int] = {}
    rejected_rows: dict[str, int] = {}
    labels: dict[str, dict[str, LabelCount]] = {}
    key = _key(config, fitted)
    with opened(config, shard, shards, types=fitted.types, threads=threads, source=source) as database:
        create_events(database, config)
        create_snapshots(database, config, config.splits)
        create_features(database, config, fitted)
        create_labels(database, config, fitted)
        events_cut = create_sequences(database, config)
        tables = count_rows(database, config.max_bad_share)
        database.source.locate(database.connection)
        rejected = _fetch(database, 'SELECT * EXCLUDE ("table", record) FROM rejected ORDER BY ALL').cast(DEAD_LETTER)
        letters = [_named(rejected, key)]
        for split in config.splits:
            checked = _checked(database, config, split, _schema(config, fitted, split))
            good, bad, answers = (_named(table, key) for table in checked)
            _write(good, storage.join(location, "rows", split, part))
            _write(answers, storage.join(location, "labels", split, part))
            letters.append(bad)
            rows[split], rejected_rows[split] = len(good), len(bad)
            labels[split] = _label_counts(answers, list(config.labels))
    dead_letters = pa.concat_tables(letters)
    _write(dead_letters, storage.join(location, "dead_letters", part))
    return ShardCounts(tables, rows, rejected_rows, labels, events_cut, _value_counts(dead_letters["reason"]))


def _schema(config: DataConfig, fitted: Fitted, split: str) -> pa.Schema:
    """The schema of a split's user rows."""
    definition, future = fitted.definition, split in config.splits_with_future
    return user_row_schema(
        definition.events(),
        [feature.name for feature in features(config, fitted)],
        future=future_of(config, definition.age_timezone) if future else None,
        zone=definition.age_timezone,
        definition=definition.digest,
    )


def _checked(
    database: Database, config: DataConfig, split: str, schema: pa.Schema
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Good user rows of a split, dead letters, and the labels of the good ones."""
    found, answers = _split_tables(database, config, split, schema)
    zone, size = schema.field("as_of").type.tz, len(feature_names(schema))
    good, bad = validate(found, list(config.modalities), size, config.max_text_length, split=split, zone=zone)
    answers = answers.filter(pc.is_in(found["row"], value_set=good["row"].combine_chunks()))
    return good.drop_columns("row").replace_schema_metadata(schema.metadata), bad, answers


def _key(config: DataConfig, fitted: Fitted) -> bytes | None:
    """The key of pseudonyms, which must be the same on every node."""
    key = key_of(config)
    if key is not None and key_id(key) != fitted.definition.key_id:
        raise InputError(
            f"data.users.key_file: {config.users.key_file} holds another key on this node than where the run began; "
            "give all nodes the same"
        )
    return key


def _named(table: pa.Table, key: bytes | None) -> pa.Table:
    """The table with pseudonyms as `user_id`, if there is a key, in their order: another one would tell who is who."""
    if key is None:
        return table
    position = table.schema.get_field_index("user_id")
    named = table.set_column(position, table.schema.field(position), pseudonyms(table["user_id"], key))
    return named.sort_by([("user_id", "ascending"), ("as_of", "ascending")])


def _split_tables(database: Database, config: DataConfig, split: str, schema: pa.Schema) -> tuple[pa.Table, pa.Table]:
    """User rows (with the column `row`) and labels of a split, in the same order."""
    places = {"user_id": "snapshots", "as_of": "snapshots", "tabular": "features"}
    columns = ", ".join(f"{places.get(name, 'sequences')}.{quote(name)}" for name in schema.names)
    labels = "".join(", labels." + quote(name) for name in config.labels)
    here = f"WHERE snapshots.split = {text(split)} ORDER BY row"
    rows = _fetch(
        database, f"SELECT row, {columns} FROM snapshots JOIN sequences USING (row) JOIN features USING (row) {here}"
    )
    answers = _fetch(database, f"SELECT user_id, as_of{labels} FROM snapshots JOIN labels USING (row) {here}")
    with_row = pa.schema([pa.field("row", pa.int64()), *schema])
    return rows.cast(with_row), answers.cast(label_schema(list(config.labels)))


def _fetch(database: Database, query: str) -> pa.Table:
    return database.connection.sql(query).to_arrow_table()


def _label_counts(labels: pa.Table, names: list[str]) -> dict[str, LabelCount]:
    return {
        name: LabelCount(pc.sum(labels[name]).as_py() or 0, len(labels) - labels[name].null_count) for name in names
    }


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _write(table: pa.Table, location: str) -> None:
    """Write a Parquet file; a table without rows leaves no file."""
    storage.remove(location)
    if not len(table):
        return
    fs, path = storage.arrow_filesystem(location)
    if "://" not in location:
        fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
    pq.write_table(table, path, filesystem=fs, row_group_size=ROW_GROUP, compression="zstd")

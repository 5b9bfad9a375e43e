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

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.data.aggregates import Fitted, create_features, create_labels, features
from ray_ggsm.data.config import DataConfig
from ray_ggsm.data.database import Database, TableRows, count_rows, opened
from ray_ggsm.data.definition import future_of, key_of, read_file
from ray_ggsm.data.events import create_events, create_sequences
from ray_ggsm.data.fit import check, combine, fit, learn, types_of
from ray_ggsm.data.keep import KEPT, Vectors, create_kept
from ray_ggsm.data.pseudonyms import key_id, pseudonyms
from ray_ggsm.data.schema import DEAD_LETTER, feature_names, label_schema, user_row_schema
from ray_ggsm.data.snapshots import create_snapshots, too_few_events
from ray_ggsm.data.source_choice import source_of
from ray_ggsm.data.sources.source import Source, State
from ray_ggsm.data.sql import quote, text
from ray_ggsm.data.summary import LabelCount, ShardCounts, write_summary
from ray_ggsm.data.texts import event_texts
from ray_ggsm.data.validate import validate
from ray_ggsm.hashing import hash64

__all__ = ["ROWS_FORMAT", "check", "combine", "fit", "input_state", "learn", "types_of", "write_shard", "write_summary"]

ROWS_FORMAT = "ages follow the calendar"
"""What prepare makes of the same input; another text means other rows."""
ROW_GROUP = 1024
"""Rows that a reader takes at a time."""
PIECE = 16 * ROW_GROUP
"""Rows that are in memory at a time."""
Write = Callable[[pa.Table], None]
Writing = Callable[[str], AbstractContextManager[Write]]
"""Location -> what takes the tables that go there, one after the other."""


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
    vectors: Vectors | None = None,
    writing: Writing | None = None,
    name_inactive: bool = False,
) -> ShardCounts:
    """Write the rows, labels and dead letters of one shard of users; the same input gives the same files.

    Args:
        config: what to prepare.
        fitted: the result of `fit`.
        shard, shards: position of the shard, and number of shards.
        location: where the output goes, local or s3://; files of the same shard are replaced.
        threads: threads DuckDB may use; None: all cores.
        source: where the shard's events come from; None: what the config names.
        vectors: vectors that users may keep, who then have no row and are named in `kept/`; None: all users have one.
        writing: how tables are written to a location; None: as a Parquet file.
        name_inactive: also write dead letters of users with too few events for a row, in a file of their own.

    Returns:
        What `write_summary` adds up.
    """
    part = f"part-{shard:05d}-of-{shards:05d}.parquet"
    splits: dict[str, _SplitCounts] = {}
    key, writing = _key(config, fitted), writing or _writing
    with opened(config, shard, shards, types=fitted.types, threads=threads, source=source) as database:
        create_events(database, config)
        if vectors is not None:
            create_kept(database, config, vectors, key)
            with writing(storage.join(location, "kept", part)) as kept_file:
                kept_file(_fetch(database, f"SELECT name AS user_id, as_of FROM {quote(KEPT)} ORDER BY ALL"))
        kept = KEPT if vectors is not None and not vectors.rows_for_all else None
        create_snapshots(database, config, config.splits, kept)
        if name_inactive:
            (split,) = config.splits
            with _writing(storage.join(location, "dead_letters", f"inactive-{part}")) as inactive_file:
                inactive_file(_named(too_few_events(database, config, split, kept), key))
        create_features(database, config, fitted)
        create_labels(database, config, fitted)
        events_cut = create_sequences(database, config)
        tables = count_rows(database, config.max_bad_share)
        database.source.locate(database.connection)
        rejected = _fetch(database, 'SELECT * EXCLUDE ("table", record) FROM rejected ORDER BY ALL').cast(DEAD_LETTER)
        letters = [_named(rejected, key)]
        for split in config.splits:
            files = storage.join(location, "rows", split, part), storage.join(location, "labels", split, part)
            with writing(files[0]) as rows_file, writing(files[1]) as labels_file:
                splits[split], bad = _write_split(database, config, fitted, key, split, (rows_file, labels_file))
            letters += bad
    dead_letters = pa.concat_tables(letters)
    with _writing(storage.join(location, "dead_letters", part)) as letters_file:
        letters_file(dead_letters)
    return ShardCounts(
        tables=tables,
        rows={split: found.rows for split, found in splits.items()},
        rejected_rows={split: found.rejected for split, found in splits.items()},
        labels={split: found.labels for split, found in splits.items()},
        events_cut=events_cut,
        dead_letters=_value_counts(dead_letters["reason"]),
        texts={name: _distinct([found.texts[name] for found in splits.values()]) for name in config.modalities},
    )


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(parts))


def labels_at(
    config: DataConfig,
    fitted: Fitted,
    shard: int,
    shards: int,
    *,
    threads: int | None = None,
    source: Source | None = None,
) -> tuple[pa.Table, dict[str, TableRows], dt.date | None]:
    """The labels of one shard of users without their rows; arguments as for `write_shard`.

    Returns:
        user_id, as_of and a nullable boolean per label, for every split; records that could be used and that could not,
        by table; the day of the newest event in the zone of the snapshots, None: there is none.
    """
    tables = {*config.snapshot_tables, *(label.table for label in config.labels.values())}
    with opened(
        config, shard, shards, types=fitted.types, threads=threads, source=source, only=tables, texts=False
    ) as database:
        counts = count_rows(database, config.max_bad_share, tables)
        create_snapshots(database, config, config.splits)
        create_labels(database, config, fitted)
        columns = "".join(", labels." + quote(name) for name in config.labels)
        answers = _fetch(
            database, f"SELECT user_id, as_of{columns} FROM snapshots JOIN labels USING (row) ORDER BY row"
        )
        dated = {t: database.tables[t].time for t in sorted(tables)}
        times = [f"SELECT max({quote(time)}) AS time FROM {quote(t)}" for t, time in dated.items() if time is not None]
        newest = database.connection.execute(f"SELECT max(time)::DATE FROM ({' UNION ALL '.join(times)})").fetchall()
    return _named(answers.cast(label_schema(list(config.labels))), _key(config, fitted)), counts, newest[0][0]


def _write_split(
    database: Database, config: DataConfig, fitted: Fitted, key: bytes | None, split: str, write: tuple[Write, Write]
) -> tuple["_SplitCounts", list[pa.Table]]:
    """Write a split's good rows and their labels (`write`); returns what they add up to, and dead letters."""
    write_rows, write_labels = write
    counts, letters = _SplitCounts(list(config.modalities), list(config.labels)), []
    for checked in _checked(database, config, split, _schema(config, fitted, split), key is not None):
        good, bad, answers = (_named(table, key) for table in checked)
        write_rows(good)
        write_labels(answers)
        letters.append(bad)
        counts.add(good, bad, answers)
    return counts, letters


class _SplitCounts:
    """What the pieces of a split add up to."""

    def __init__(self, modalities: Sequence[str], labels: Sequence[str]) -> None:
        self.rows = self.rejected = 0
        self.labels = dict.fromkeys(labels, LabelCount(0, 0))
        self.texts = dict.fromkeys(modalities, np.zeros(0, np.uint64))

    def add(self, good: pa.Table, bad: pa.Table, answers: pa.Table) -> None:
        """Count a piece: its good rows, the others, and the labels of the good ones."""
        self.rows += len(good)
        self.rejected += len(bad)
        for name, (positives, defined) in self.labels.items():
            column = answers[name]
            counted = (positives + (pc.sum(column).as_py() or 0), defined + len(column) - column.null_count)
            self.labels[name] = LabelCount(*counted)
        for name, hashes in self.texts.items():
            texts = pa.concat_arrays(event_texts(good[name].combine_chunks().flatten()))
            self.texts[name] = np.union1d(hashes, hash64(pc.unique(texts).drop_null()))


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
    database: Database, config: DataConfig, split: str, schema: pa.Schema, at_once: bool
) -> Iterator[tuple[pa.Table, pa.Table, pa.Table]]:
    """Good user rows of a split, dead letters, and the labels of the good ones, piece by piece or all `at_once`."""
    zone, size = schema.field("as_of").type.tz, len(feature_names(schema))
    query = f"SELECT row FROM snapshots WHERE split = {text(split)} ORDER BY row"
    row_N = _fetch(database, query)["row"].to_numpy()
    for start in range(0, len(row_N), len(row_N) if at_once else PIECE):
        first, last = row_N[start], row_N[start : start + (len(row_N) if at_once else PIECE)][-1]
        found, answers = _split_tables(database, config, split, schema, f"row BETWEEN {first} AND {last}")
        good, bad = validate(found, list(config.modalities), size, config.max_text_length, split=split, zone=zone)
        answers = answers.filter(pc.is_in(found["row"], value_set=good["row"].combine_chunks()))
        yield good.drop_columns("row").replace_schema_metadata(schema.metadata), bad, answers


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


def _split_tables(
    database: Database, config: DataConfig, split: str, schema: pa.Schema, which: str
) -> tuple[pa.Table, pa.Table]:
    """User rows (with the column `row`) and labels of some rows of a split, in the same order."""
    places = {"user_id": "snapshots", "as_of": "snapshots", "tabular": "features"}
    columns = ", ".join(f"{places.get(name, 'sequences')}.{quote(name)}" for name in schema.names)
    labels = "".join(", labels." + quote(name) for name in config.labels)
    here = f"WHERE snapshots.split = {text(split)} AND {which} ORDER BY row"
    rows = _fetch(
        database, f"SELECT row, {columns} FROM snapshots JOIN sequences USING (row) JOIN features USING (row) {here}"
    )
    answers = _fetch(database, f"SELECT user_id, as_of{labels} FROM snapshots JOIN labels USING (row) {here}")
    with_row = pa.schema([pa.field("row", pa.int64()), *schema])
    return rows.cast(with_row), answers.cast(label_schema(list(config.labels)))


def _fetch(database: Database, query: str) -> pa.Table:
    return database.connection.sql(query).to_arrow_table()


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


@contextmanager
def _writing(location: str) -> Iterator[Callable[[pa.Table], None]]:
    """Write tables into a Parquet file; without any row there is no file."""
    storage.remove(location)
    fs, path = storage.arrow_filesystem(location)
    with ExitStack() as opened_file:
        writer: pq.ParquetWriter | None = None

        def write(table: pa.Table) -> None:
            nonlocal writer
            if not len(table):
                return
            if writer is None:
                if "://" not in location:
                    fs.create_dir(path.rsplit("/", 1)[0], recursive=True)
                writer = opened_file.enter_context(
                    pq.ParquetWriter(path, table.schema, filesystem=fs, compression="zstd")
                )
            writer.write_table(table, row_group_size=ROW_GROUP)

        yield write

"""Users of the newest version's input who have no vector in it, and why."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import delta
from ray_ggsm.tables.reader import EmbeddingTable

COLUMNS = ["user_id", "as_of", "reason", "detail", "source"]


def missing(table: EmbeddingTable) -> pa.Table:
    """The dead letters of the run that made the newest version, less those of users who have a vector all the
    same: COLUMNS, sorted by reason and user. Letters without a user_id name nobody: the input had none, or the user is
    forgotten.

    Raises:
        InputError: rows have no vector, and the files that name them are gone.
    """
    files = _files(table)
    parts = []
    for file in files:
        fs, path = storage.arrow_filesystem(file)
        parts.append(pq.read_table(path, filesystem=fs, partitioning=None, columns=COLUMNS))
    if not parts:
        if table.metadata().without_vector:
            raise InputError(
                f"{table.location}: no dead letters of version {table.version} are below the table: vacuum has removed "
                "them, or jobs/embed.py made it, which keeps them in its stage's staging/dead_letters"
            )
        return pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
    letters = pa.concat_tables(parts)
    nameless = letters.filter(pc.is_null(letters["user_id"]))
    named = letters.filter(pc.is_valid(letters["user_id"]))
    bucket_N = pa.array(bucket_of(named["user_id"], table.buckets))
    without = [nameless]
    for bucket in pc.unique(bucket_N).to_pylist():
        part = named.filter(pc.equal(bucket_N, bucket))
        users = table.read(buckets=[bucket], columns=["user_id"])["user_id"].combine_chunks()
        without.append(part.filter(pc.invert(pc.is_in(part["user_id"], value_set=users))))
    return pa.concat_tables(without).sort_by([("reason", "ascending"), ("user_id", "ascending")])


def _files(table: EmbeddingTable) -> list[str]:
    """The dead letters of the run; a run that was started again after a rollback goes on in its first directory."""
    made = delta.origin(table.location, table.version)
    run = made.run or "" if made else ""
    for name in (run, run.rpartition("-")[0]):
        place = storage.join(table.location, "staging", name, "dead_letters")
        if name and (files := storage.list_files(place, ".parquet")):
            return files
    return []

"""Look-alike audiences: the users of a table whose vectors are nearest to some seed users, or to one sentence.

Exact and streaming: every data file is scored where it is read and gives its own k best, and the best of all are kept
as they come, so memory holds 2 k rows, however large the table is. The score is the cosine to the mean of the seeds'
directions, or to the sentence's vector from the encoder's answer tower.

Legend: S seed rows, N rows of a file, D width.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
import torch

from ray_ggsm import storage
from ray_ggsm.cli import user_error
from ray_ggsm.config import InputError, digest
from ray_ggsm.embedding.embedder import Embedder
from ray_ggsm.experiment import RayConfig
from ray_ggsm.model import saved
from ray_ggsm.on_ray.cluster import check_place, started
from ray_ggsm.tables import open_table, scan
from ray_ggsm.tables.commands import read_users
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import matrix

COLUMNS = ["user_id", "as_of", "instruction", "embedding"]


def run(description: str, arguments: Sequence[str] | None = None) -> int:
    """Parse arguments, search, write the audience; returns the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="the table's location, local or s3://")
    seeds = parser.add_mutually_exclusive_group(required=True)
    seeds.add_argument("--users-file", help="text file with one seed user_id per line, local or s3://")
    seeds.add_argument("--text", help="one sentence; needs --encoder")
    parser.add_argument("--encoder", help="the saved encoder that made the table")
    parser.add_argument("--instruction", default="default", help="search among the rows of this instruction")
    parser.add_argument("--k", type=int, default=1000, help="users to find")
    parser.add_argument("--output", required=True, help="Parquet file to write, local or s3://")
    options = parser.parse_args(arguments)
    try:
        if options.k < 1:
            raise InputError(f"--k: expected 1 or more users, found {options.k}")
        table = open_table(options.table)
        if options.users_file:
            users = read_users(options.users_file)
            target_D = seed_direction(table, users, options.instruction)
        else:
            users, target_D = [], sentence_direction(table, options.text, options.encoder)
        with started(RayConfig()):
            check_place("--output", options.output)
            found = lookalike(table, target_D, options.k, users, options.instruction)
        sink = pa.BufferOutputStream()
        pq.write_table(found, sink)
        storage.write_bytes(storage.absolute(options.output), sink.getvalue().to_pybytes())
    except Exception as error:
        if (sentence := user_error(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    print(f"lookalike: {len(found):,} users of version {table.version} in {options.output}")
    return 0


def seed_direction(table: EmbeddingTable, users: Sequence[str], instruction: str) -> np.ndarray:
    """The mean of the seeds' unit vectors, (D,).

    Raises:
        InputError: none of the users is in the table.
    """
    found, vector_SD = table.matrix(user_ids=users, instruction=instruction)
    missing = len(set(users)) - len(set(found.tolist()))
    if not len(found):
        raise InputError(f"{table.location}: none of the {len(users)} seed users has a row of '{instruction}'")
    if missing:
        print(f"lookalike: {missing:,} of {len(set(users)):,} seed users are not in the table", flush=True)
    direction_D: np.ndarray = _unit(vector_SD).mean(axis=0)
    return direction_D


def sentence_direction(table: EmbeddingTable, text: str, encoder: str | None) -> np.ndarray:
    """The sentence's vector, (D,).

    Raises:
        InputError: there is no encoder, or it is not the one that made the table.
    """
    if not encoder:
        raise InputError("--text needs --encoder: the saved encoder that made the table")
    trained = saved.load(encoder, torch.device("cpu"))
    made_by, given = table.metadata().get("encoder"), digest(storage.read_json(storage.join(encoder, "encoder.json")))
    if made_by != given:
        raise InputError(f"{encoder}: this encoder is {given}, the table was made by {made_by}; give that one")
    no_events = np.zeros((0, trained.encoder.event_width), np.float32)
    vector_D: np.ndarray = Embedder(trained, lambda texts: no_events, 16_384).texts([text])[0]
    return vector_D


def lookalike(
    table: EmbeddingTable, target_D: np.ndarray, k: int, without: Sequence[str], instruction: str
) -> pa.Table:
    """The k best users (user_id, as_of, score), best first; `without` are left out. Of several rows the best counts."""
    files = [{"file": file} for file in table.files()]
    scored = ray.data.from_items(files, override_num_blocks=max(len(files), 1)).map_batches(
        _best_of_files,
        fn_args=[target_D / np.linalg.norm(target_D), k, pa.array(without, pa.string()), instruction],
        batch_format="pyarrow",
        batch_size=1,
    )
    best = _RESULT.empty_table()
    for found in scored.iter_batches(batch_format="pyarrow", batch_size=None):
        best = _best(pa.concat_tables([best, found.cast(_RESULT)]), k)
    return best


_RESULT = pa.schema([("user_id", pa.string()), ("as_of", pa.timestamp("us", "UTC")), ("score", pa.float32())])


def _best_of_files(files: pa.Table, target_D: np.ndarray, k: int, without: pa.Array, instruction: str) -> pa.Table:
    rows = scan.read_files(files["file"].to_pylist(), COLUMNS)
    wanted = pc.and_(
        pc.equal(rows["instruction"], instruction), pc.invert(pc.is_in(rows["user_id"], value_set=without))
    )
    rows = rows.filter(wanted)
    if not len(rows):
        return _RESULT.empty_table()
    score_N = _unit(matrix(rows["embedding"])) @ target_D
    return _best(pa.table([rows["user_id"], rows["as_of"], pa.array(score_N, pa.float32())], schema=_RESULT), k)


def _best(rows: pa.Table, k: int) -> pa.Table:
    ordered = rows.sort_by([("score", "descending"), ("user_id", "ascending")])
    users = ordered["user_id"].combine_chunks().dictionary_encode()
    _, first = np.unique(users.indices.to_numpy(), return_index=True)
    return ordered.take(pa.array(np.sort(first)[:k]))


def _unit(vector_ND: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return vector_ND / np.maximum(lengths, 1e-12)

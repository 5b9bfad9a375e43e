"""Tonight's users by bucket: the rows of those who need a new vector, and the names of those who keep theirs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.building import dead_letters
from ray_ggsm.building.build import Build
from ray_ggsm.building.dead_letters import FORGOTTEN
from ray_ggsm.clock import MICROSECONDS_PER_DAY, wall_clock_of_as_of
from ray_ggsm.config import InputError
from ray_ggsm.data.chunks import Chunk
from ray_ggsm.data.content import content_hashes
from ray_ggsm.data.validate import DUPLICATE_KEY
from ray_ggsm.hashing import bucket_of, hash64
from ray_ggsm.tables import scan

CONTENT, CARRIED = "row.content", "row.carried"
"""Columns of a file of rows: hash of what the row says; whether the user keeps a vector, whose `as_of` the row has."""
ROWS_PER_GROUP = 16_384


@dataclass(frozen=True)
class LaidOut:
    """Tonight's users of one bucket, or some of them."""

    rows: Chunk
    """Their rows; its number is that of the bucket."""
    fresh: int
    """Rows that need a vector."""
    ages: Mapping[str, int]
    """Moment (ISO, UTC) -> users who keep a vector of it."""


@dataclass(frozen=True)
class Layout:
    """Tonight's users."""

    parts: tuple[LaidOut, ...]
    rejected: int
    """Rows that are dead letters instead."""
    based_on: int
    """Version whose vectors are kept."""
    suppressed: int = 0
    """Entries of the list of forgotten users that it knows."""


def lay_out(
    rows: pa.Table,
    build: Build,
    file: str,
    previous: Sequence[str],
    kept: pa.Table | None = None,
    quiet: pa.ChunkedArray | None = None,
) -> list[LaidOut]:
    """Write some users' rows by bucket; all rows of a user are among them.

    Args:
        rows: valid user rows.
        build: the build.
        file: location of the new file; without rows there is none.
        previous: data files with the vectors of these users that may be kept.
        kept: `user_id` and `as_of` of users without a row who keep the vector that they have, where events tell who
            does: then everybody with a row gets a new vector. None: content and age of the vectors tell.
        quiet: the only users who may keep a vector by its content, which does not cover features; None: all.

    Raises:
        InputError: a user has several rows.
    """
    rows, kept = _without_forgotten(rows, kept, build, file)
    if build.one_row_each:
        _refuse_repeated(rows["user_id"], build)
    read = [*build.modalities, "query", *(["tabular"] if build.max_age_days is None else [])]
    content_N = content_hashes(rows, [name for name in read if name in rows.column_names])
    rows = rows.append_column(CONTENT, pa.array(content_N))
    # what came late may be in the features alone, which the content of a vector that may be kept does not cover
    known_N, moment_N = _known(rows, build, previous if kept is None else (), quiet)
    same = rows.filter(pa.array(known_N)).select(["user_id"])
    carried = [
        same.append_column("as_of", moment_N.filter(pa.array(known_N))),
        *([kept] if kept is not None else []),
    ]
    names = pa.concat_tables([table.cast(_key_schema(rows)) for table in carried])
    fresh = rows.filter(pa.array(~known_N))
    fresh = fresh.append_column(CARRIED, pa.repeat(False, len(fresh)))
    names = names.append_column(CARRIED, pa.repeat(True, len(names)))
    return _write(pa.concat_tables([fresh, names], promote_options="default"), file, build.buckets)


def _without_forgotten(
    rows: pa.Table, kept: pa.Table | None, build: Build, file: str
) -> tuple[pa.Table, pa.Table | None]:
    """The rows and the kept, less users who are on the list: these are counted in dead letters that name nobody."""
    if not build.forgotten.version:
        return rows, kept
    found = [rows] if kept is None else [rows, kept]
    gone = [table.filter(build.gone(table["user_id"])).select(["as_of"]) for table in found]
    name = file.rsplit("/", 1)[1].removesuffix(".parquet")
    dead_letters.write(build, f"forgotten-{name}", FORGOTTEN, pa.concat_tables([t.cast(gone[0].schema) for t in gone]))
    return build.without_gone(rows), None if kept is None else build.without_gone(kept)


def _key_schema(rows: pa.Table) -> pa.Schema:
    return pa.schema([pa.field(name, rows.schema.field(name).type) for name in ("user_id", "as_of")])


def _refuse_repeated(user_id: pa.ChunkedArray, build: Build) -> None:
    counts = pc.value_counts(user_id)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if not len(repeated):
        return
    file = dead_letters.write(build, "repeated", DUPLICATE_KEY, pa.table({"user_id": repeated}))
    raise InputError(
        f"rows: {len(repeated):,} users stand in the input several times, and a refreshed table has one row per user: "
        f"give the newest; {file} lists them"
    )


def _known(
    rows: pa.Table, build: Build, previous: Sequence[str], quiet: pa.ChunkedArray | None
) -> tuple[np.ndarray, pa.ChunkedArray]:
    """Which rows (N,) keep the vectors that the table has, and the moments of these, null elsewhere."""
    old = scan.read_files(previous, ["user_id", "instruction", "as_of", "content"])
    values = [(name, how) for name in ("as_of", "content") for how in ("min", "max")]
    old = old.group_by("user_id", use_threads=False).aggregate([("instruction", "count"), *values])
    place_N = pc.index_in(rows["user_id"], old["user_id"].combine_chunks())
    found = old.take(place_N)
    complete = pc.equal(found["instruction_count"], len(build.embedding.instructions))
    for name in ("as_of", "content"):
        complete = pc.and_(complete, pc.equal(found[f"{name}_min"], found[f"{name}_max"]))
    same = pc.and_(complete, pc.equal(found["content_min"], rows[CONTENT]))
    if quiet is not None:
        same = pc.and_(same, pc.is_in(rows["user_id"], value_set=quiet.combine_chunks()))
    known_N = pc.fill_null(same, False).to_numpy().copy()
    moment_N = found["as_of_max"].cast(rows.schema.field("as_of").type)
    is_due_N = is_due(rows["user_id"], moment_N, rows["as_of"], build.zone, build.max_age_days)
    return known_N & ~is_due_N, moment_N


def is_due(
    user_id: pa.ChunkedArray,
    vector_as_of: pa.ChunkedArray,
    as_of: pa.ChunkedArray,
    zone: str,
    max_age_days: int | None,
) -> np.ndarray:
    """Whether users (N,) need a new vector because of the time alone.

    Each user's turn comes every `max_age_days` days, spread over the nights by a hash of the user, so nobody has an
    older vector, also when nights were missed. None: any other moment is another content.
    """
    if max_age_days is None:
        return ~pc.fill_null(pc.equal(vector_as_of, as_of), False).to_numpy()
    kind = pa.timestamp("us", zone)
    days = [
        wall_clock_of_as_of(times.cast(kind).fill_null(0)) // MICROSECONDS_PER_DAY for times in (vector_as_of, as_of)
    ]
    shift_N = (hash64(user_id) % np.uint64(max_age_days)).astype(np.int64)
    before_N, now_N = ((day_N + shift_N) // max_age_days for day_N in days)
    is_due_N: np.ndarray = (before_N != now_N) | (days[1] < days[0])
    return is_due_N


def _write(rows: pa.Table, file: str, buckets: int) -> list[LaidOut]:
    """Write rows by bucket and user, each bucket in row groups of its own."""
    if not len(rows):
        return []
    bucket_N = bucket_of(rows["user_id"], buckets)
    order = pa.table({"bucket": bucket_N, "user_id": rows["user_id"], "as_of": rows["as_of"]})
    order_N = pc.sort_indices(order, [(name, "ascending") for name in order.column_names])
    rows, bucket_N = rows.take(order_N), bucket_N[order_N.to_numpy()]
    parts, sink, groups = [], pa.BufferOutputStream(), 0
    with pq.ParquetWriter(sink, rows.schema, compression="zstd") as writer:
        for bucket in np.unique(bucket_N):
            start, end = np.searchsorted(bucket_N, [bucket, bucket + 1])
            part = rows.slice(start, end - start)
            writer.write_table(part, row_group_size=ROWS_PER_GROUP)
            count = -(-len(part) // ROWS_PER_GROUP)
            carried = part.filter(part[CARRIED])
            moments = (moment.isoformat() for moment in carried["as_of"].cast(pa.timestamp("us", "UTC")).to_pylist())
            chunk = Chunk(int(bucket), file, groups, count, 0, len(part))
            parts.append(LaidOut(chunk, len(part) - len(carried), dict(Counter(moments))))
            groups += count
    storage.write_bytes(file, sink.getvalue().to_pybytes())
    return parts

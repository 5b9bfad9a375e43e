"""The shuffle of user rows that a team made itself: files in any order -> rows by bucket."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.building.layout import LaidOut, lay_out
from ray_ggsm.data.chunks import Chunk, read_chunk
from ray_ggsm.data.validate import validate
from ray_ggsm.hashing import bucket_of


def read_part(chunks: Sequence[Chunk], build: Build, parts: int) -> tuple[int | pa.Table, ...]:
    """The number of bad rows in some chunks, which become dead letters, and the good ones of each part of users."""
    good, dead = [], []
    for chunk in chunks:
        columns = ["user_id", "as_of", *build.modalities, "tabular", "query"]
        settings = (build.modalities, build.features, build.max_text_length)
        kept, rejected = validate(read_chunk(chunk, columns), *settings, source=chunk.file, zone=build.zone)
        good.append(kept)
        dead.append(rejected)
    letters = pa.concat_tables(dead)
    if len(letters):
        file = storage.join(build.dead_letters, f"invalid-{chunks[0].number:08d}.parquet")
        storage.write_parquet(file, letters, "zstd")
    rows = pa.concat_tables(good, promote_options="default")
    part_N = pa.array(bucket_of(rows["user_id"], build.buckets) % parts)
    return len(letters), *(rows.filter(pc.equal(part_N, part)) for part in range(parts))


def write_part(build: Build, file: str, previous: Sequence[str], *rows: pa.Table) -> list[LaidOut]:
    """Lay out the rows of one part of users."""
    return lay_out(pa.concat_tables(rows, promote_options="default"), build, file, previous)

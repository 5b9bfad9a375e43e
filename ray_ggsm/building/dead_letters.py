"""Rows of the input that have no vector, with the reasons: files that a build leaves, and their counts."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.building.build import Build
from ray_ggsm.data.schema import DEAD_LETTER

OUT_OF_MEMORY = "out_of_memory"
"""The row did not fit into memory."""
FORGOTTEN = "forgotten"
"""The user is on the list of the forgotten; the letter names nobody."""
_MEMORY, _EVENTS = "memory-", "part-"
"""How names of files begin: of rows of the table, and of what prepare rejects, records of events among it."""


def write(build: Build, name: str, reason: str, rows: pa.Table, detail: str | None = None) -> str:
    """Write dead letters of one reason to a file, which is named like them and returned; without any there is no file.

    `rows` have `user_id` and `as_of` where they are known.
    """
    file = storage.join(build.dead_letters, f"{name}.parquet")
    if not len(rows):
        storage.remove(file)  # of an earlier attempt
        return file
    columns = {name: rows[name] for name in ("user_id", "as_of") if name in rows.column_names}
    columns["reason"] = pa.repeat(reason, len(rows))
    columns["detail"] = pa.nulls(len(rows), pa.string()) if detail is None else pa.repeat(detail, len(rows))
    letters = {name: columns.get(name, pa.nulls(len(rows), pa.string())) for name in DEAD_LETTER.names}
    storage.write_parquet(file, pa.table(letters).cast(DEAD_LETTER), "zstd")
    return file


def write_lost(build: Build, bucket: int, rows: pa.Table) -> None:
    """Write the rows of a bucket that did not fit into memory."""
    write(build, f"{_MEMORY}{bucket:08d}", OUT_OF_MEMORY, rows, "too large for the memory, alone in its batch")


def count_reasons(build: Build) -> dict[str, int]:
    """Reason -> rows that the table would have, one per instruction, of what the files of a build name."""
    instructions, found = len(build.embedding.instructions), Counter[str]()
    for file in storage.list_files(build.dead_letters, ".parquet"):
        fs, path = storage.arrow_filesystem(file)
        letters = pq.read_table(path, filesystem=fs, partitioning=None, columns=["split", "reason"])
        name = file.rsplit("/", 1)[1]
        if name.startswith(_EVENTS):
            letters = letters.filter(pc.is_valid(letters["split"]))
        each = 1 if name.startswith(_MEMORY) else instructions
        found.update({e["values"]: each * e["counts"] for e in pc.value_counts(letters["reason"]).to_pylist()})
    return dict(sorted(found.items()))

"""One bucket of a new version: its rows are read, encoded elsewhere, and written as one file of the table.

The file holds the vectors of this run and, of the users who keep theirs, the rows of the version before, sorted by
user. Data files get their final names at once, so an interrupted run does not write them again; where the table has got
another version meanwhile, the vectors in files that this run wrote for the one before are used.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.building import dead_letters
from ray_ggsm.building.build import Build
from ray_ggsm.building.layout import CARRIED, CONTENT, LaidOut
from ray_ggsm.data.chunks import Chunk, read_chunk
from ray_ggsm.tables import scan
from ray_ggsm.tables.checks import FileCheck, carried, check_file
from ray_ggsm.tables.files import DataFile, bucket_path, describe, notes_of, spacing_of, write_bucket
from ray_ggsm.tables.schema import SCHEMA, shortened


@dataclass(frozen=True)
class Bucket:
    """One bucket of a new version, and the places of what it is made of."""

    number: int
    rows: tuple[LaidOut, ...]
    """Tonight's users."""
    previous: tuple[DataFile, ...]
    """Its files in the version before."""
    part: str
    """Name of its new file among those of this run and bucket."""
    earlier: tuple[str, ...]
    """Files that this run wrote for another version before, below the table."""

    @classmethod
    def from_json(cls, text: str) -> "Bucket":
        """The bucket that `to_json` described."""
        values = json.loads(text)
        rows = tuple(LaidOut(Chunk(**part["rows"]), part["fresh"], part["ages"]) for part in values["rows"])
        previous = tuple(DataFile(**file) for file in values["previous"])
        return cls(values["number"], rows, previous, values["part"], tuple(values["earlier"]))

    def to_json(self) -> str:
        """The form in which Ray Data carries it."""
        return json.dumps(asdict(self))

    @property
    def fresh(self) -> int:
        """Rows that need a vector."""
        return sum(part.fresh for part in self.rows)

    @property
    def carried(self) -> int:
        """Users who keep theirs."""
        return sum(sum(part.ages.values()) for part in self.rows)


@dataclass(frozen=True)
class Counts:
    """What became of a bucket's rows."""

    encoded: int = 0
    """Rows whose vectors this run computed."""
    departed: int = 0
    """Rows of the version before whose users have no vector now: they left the input, or their row is rejected."""
    new: int = 0
    """Rows of users who had no vector in the version before."""
    dead_letters: int = 0
    """Rows that did not fit into memory."""
    forgotten: int = 0
    """Rows of tonight's users who were forgotten meanwhile."""


@dataclass(frozen=True)
class Built:
    """One bucket of the new version, written."""

    bucket: int
    file: DataFile | None
    """Its new file; None: it has no rows now, or it keeps its file."""
    kept: bool
    """Whether nothing changed, and the file of the version before stays."""
    rows_before: int
    """Rows in the version before."""
    counts: Counts
    check: FileCheck


def unchanged(bucket: Bucket, instructions: int) -> Built | None:
    """The bucket if it keeps its file; None: it does not."""
    rows = sum(file.rows for file in bucket.previous)
    if bucket.fresh or rows != bucket.carried * instructions:
        return None
    ages: dict[str, int] = {}
    for part in bucket.rows:
        for moment, users in part.ages.items():
            ages[moment] = ages.get(moment, 0) + users * instructions
    return Built(bucket.number, None, True, rows, Counts(), carried(rows, ages))


class BucketFiles:
    """What a task reads and writes of a bucket."""

    def __init__(self, bucket: Bucket, build: Build) -> None:
        self.bucket, self.build = bucket, build

    def fresh(self) -> pa.Table:
        """The rows to encode, once per instruction, with the columns `row.instruction` and `row.content`."""
        build = self.build
        columns = ["user_id", "as_of", *build.modalities, "tabular", "query", CONTENT, CARRIED]
        parts = [read_chunk(part.rows, columns) for part in self.bucket.rows if part.fresh]
        rows = pa.concat_tables([part.filter(pc.invert(part[CARRIED])) for part in parts])
        rows = build.without_gone(rows.drop_columns([CARRIED]))
        done = self._done["user_id"].combine_chunks()
        rows = rows.filter(pc.invert(pc.is_in(rows["user_id"], value_set=done))) if len(done) else rows
        return pa.concat_tables([_instructed(rows, *each, build) for each in build.embedding.instructions.items()])

    def finished(self) -> Built | None:
        """The bucket, if it keeps its file, or as an earlier attempt of the run wrote it; None: there is work to do."""
        build, bucket = self.build, self.bucket
        same = unchanged(bucket, len(build.embedding.instructions))
        if same is not None and not _any(build.gone(self._old["user_id"])):
            return same
        # also one that was written for the same version before, with a shorter list of forgotten users
        own = bucket_path(build.run, bucket.number, bucket.part)
        for path in (own, *(path for path in bucket.earlier if path.rsplit("-", 1)[0] == own.rsplit("-", 1)[0])):
            place = storage.join(build.table, path)
            if storage.exists(place):
                rows = scan.read_files([place], SCHEMA.names)
                if not _any(build.gone(rows["user_id"])):
                    counts, file = Counts(**json.loads(notes_of(place) or "{}")), describe(build.table, path)
                    return Built(bucket.number, file, False, self._rows_before, counts, check_file(rows))
        return None

    def write(self, encoded: pa.Table, fits_N: np.ndarray) -> Built:
        """Write the bucket's file.

        Args:
            encoded: rows of SCHEMA that were encoded now.
            fits_N: bool, whether there was memory for each; the others become dead letters.
        """
        build, bucket = self.build, self.bucket
        dead_letters.write_lost(build, bucket.number, encoded.filter(pa.array(~fits_N)))
        encoded = shortened(encoded, build.files.dimensions)
        new = pa.concat_tables([encoded.filter(pa.array(fits_N)), self._done])
        rows = pa.concat_tables([new, self._carried()])
        counts = Counts(
            encoded=len(new),
            departed=_rows_without(self._old, rows),
            new=_rows_without(rows, self._old),
            dead_letters=int((~fits_N).sum()),
            forgotten=self._forgotten(),
        )
        if not len(rows):
            return Built(bucket.number, None, False, self._rows_before, counts, FileCheck())
        spacing = spacing_of(self._places(bucket.previous)) if len(new) < len(rows) else None
        place, notes = (build.table, build.run, bucket.number), json.dumps(asdict(counts))
        file = write_bucket(rows, *place, build.files, spacing, part=bucket.part, notes=notes)
        return Built(bucket.number, file, False, self._rows_before, counts, check_file(rows))

    @property
    def _rows_before(self) -> int:
        return sum(file.rows for file in self.bucket.previous)

    @cached_property
    def _old(self) -> pa.Table:
        """The bucket's rows in the version before."""
        return scan.read_files(self._places(self.bucket.previous), SCHEMA.names)

    @cached_property
    def _done(self) -> pa.Table:
        """Rows of users who need a new vector tonight, of whom this run has encoded all for another version before."""
        if not self.bucket.earlier:
            return SCHEMA.empty_table()
        found = scan.read_files([storage.join(self.build.table, path) for path in self.bucket.earlier], SCHEMA.names)
        found = self.build.without_gone(found.filter(pc.equal(found["run"], self.build.run)))
        keys = ["user_id", "as_of", "instruction"]
        first = found.append_column("n", pa.array(np.arange(len(found)))).group_by(keys).aggregate([("n", "min")])
        found = found.take(first["n_min"].combine_chunks())
        # another layout has other users, and a row may have found no memory
        done, wanted = (_rows_by_user(users) for users in (found["user_id"], self._users(carried=False)))
        wanted_N = wanted["rows"].take(pc.index_in(done["user_id"], wanted["user_id"].combine_chunks()))
        all_ = pc.equal(done["rows"], pc.multiply(wanted_N, len(self.build.embedding.instructions)))
        return found.filter(pc.is_in(found["user_id"], value_set=done.filter(all_)["user_id"].combine_chunks()))

    def _carried(self) -> pa.Table:
        """The table's rows of the users who keep their vector."""
        users = self._users(carried=True)
        return self.build.without_gone(self._old.filter(pc.is_in(self._old["user_id"], value_set=users)))

    def _users(self, carried: bool) -> pa.Array:
        """Tonight's users who keep their vector, or who need a new one, row by row."""
        some = [part.rows for part in self.bucket.rows if (part.ages if carried else part.fresh)]
        parts = [read_chunk(rows, ["user_id", CARRIED]) for rows in some]
        mine = [part.filter(pc.equal(part[CARRIED], carried))["user_id"].cast(pa.string()) for part in parts]
        return pa.chunked_array(mine, pa.string()).combine_chunks()

    def _forgotten(self) -> int:
        """Rows of tonight's users who are on the list."""
        if not self.build.forgotten.version:
            return 0
        gone = [self.build.gone(read_chunk(part.rows, ["user_id"])["user_id"]) for part in self.bucket.rows]
        return len(self.build.embedding.instructions) * sum(pc.sum(each).as_py() or 0 for each in gone)

    def _places(self, files: Sequence[DataFile]) -> list[str]:
        return [storage.join(self.build.table, file.path) for file in files]


def _any(which_N: pa.Array) -> bool:
    return bool(pc.any(which_N).as_py())


def _rows_by_user(user_id: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Columns `user_id` and `rows`."""
    counts = pc.value_counts(user_id)
    return pa.table({"user_id": counts.field("values"), "rows": counts.field("counts")})


def _rows_without(rows: pa.Table, others: pa.Table) -> int:
    """Number of rows whose users have no row among others."""
    known_N = pc.is_in(rows["user_id"], value_set=others["user_id"].combine_chunks())
    return len(rows) - (pc.sum(known_N).as_py() or 0)


def _instructed(rows: pa.Table, name: str, text: str, build: Build) -> pa.Table:
    """The rows with the text of an instruction as their query; an empty text leaves the queries that they have."""
    if any(build.embedding.instructions.values()):
        query = pa.repeat(text, len(rows)) if text else pa.nulls(len(rows), pa.string())
        if "query" not in rows.column_names:
            rows = rows.append_column("query", query)
        elif text:
            rows = rows.set_column(rows.column_names.index("query"), "query", query)
    return rows.append_column("row.instruction", pa.repeat(name, len(rows)))

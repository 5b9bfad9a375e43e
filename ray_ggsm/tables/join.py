"""Join vectors to users and times as they were known: for labels, without a look into the future.

A row gets the newest vector of its user whose `as_of` is not after the row's time, out of all versions that were
committed by the moment at which it is `known`. So two clocks count: that of the histories, and that of the table.

- Of several vectors with one `as_of`, that of the newest version counts.
- A version that was rolled back counts no more from the rollback on, and one that a rollback brought back does.
- What was published of users before a `forget` never counts again, whatever moment is asked for. With the key of the
  list of forgotten users nothing of anybody on it counts, also of those who were only in earlier versions.
- A row whose vector may have been in a file that vacuum has removed is refused: no older vector takes its place.

The rows are held in memory; files are read bucket by bucket, keys first, then the vectors that were found.
Vectors may come in the space of one version's encoder (`ray_ggsm.tables.compatible`): then rows may have vectors of
several encoders.

Legend: N rows, D width.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.hashing import bucket_of
from ray_ggsm.tables import scan
from ray_ggsm.tables.bucket_past import read_past
from ray_ggsm.tables.compatible import Route, Routes, follow, space_of
from ray_ggsm.tables.labels import Keys, as_table, instants
from ray_ggsm.tables.metadata import Commit, VersionMetadata
from ray_ggsm.tables.moments import Moment, instant, microseconds, parsed
from ray_ggsm.tables.point_in_time import Answers, Asked, answers
from ray_ggsm.tables.schema import SCHEMA, check_dimensions, first_dimensions, matrix
from ray_ggsm.tables.suppression import SuppressionFilter
from ray_ggsm.tables.timeline import NEVER, Timeline

RESULT = pa.schema([SCHEMA.field("as_of"), ("version", pa.int64()), SCHEMA.field("encoder"), SCHEMA.field("embedding")])
"""Columns that a join adds; null where there is no vector."""
BATCH = 65_536
"""Most rows of a batch."""
WITHOUT = "ray_ggsm.rows_without_vector"
"""Key of the number of rows without a vector in the metadata of the joined table."""
LIST = "ray_ggsm.suppression_list"
"""Key of what was done about the list of forgotten users (`SuppressionFilter.state`); absent where there is none."""


@dataclass
class VectorForm:
    """In which form vectors are returned."""

    dimensions: int | None = None
    """First dimensions that are wanted, at length 1 again; None: all."""
    routes: Callable[[VersionMetadata], Routes] | None = None
    """What a version records -> the ways of its vectors into the space that is wanted; None: they stay as they are."""
    _found: dict[tuple[int, str], Route] = field(default_factory=dict)

    def of(self, vector_ND: np.ndarray, commit: Commit, instruction: str) -> np.ndarray:
        """The vectors of a version in this form.

        Raises:
            InputError: no map leads into the space, or they are too short.
        """
        if self.routes is not None:
            key = commit.version, instruction
            if key not in self._found:
                self._found[key] = self.routes(commit.metadata).route(instruction, self.dimensions)
            vector_ND = follow(self._found[key], vector_ND)
        return vector_ND if self.dimensions is None else first_dimensions(vector_ND, self.dimensions)


@dataclass(frozen=True)
class JoinOptions:
    """What counts in a join; `EmbeddingTable.join_batches` says what each is."""

    known_at: Moment | None
    instruction: str | None
    encoder: str | None
    max_age: dt.timedelta | None
    form: VectorForm


@dataclass
class Join:
    """Rows to be joined, and what counts for them."""

    timeline: Timeline
    buckets: int
    """The table's number of buckets."""
    rows: pa.Table
    """With `user_id` and `time`."""
    time_N: np.ndarray
    """Microseconds."""
    version_N: np.ndarray
    """The newest version that each row may know."""
    instruction: str | None
    encoder: str | None
    max_age: int | None
    """Microseconds."""
    form: VectorForm
    _instructions: set[str] = field(default_factory=set)
    _encoders: set[str] = field(default_factory=set)
    _spaces: dict[str, int] = field(default_factory=dict)
    """Space of vectors that were found -> a version that has some."""
    _widths: set[int] = field(default_factory=set)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows, then RESULT."""
        return pa.schema([*self.rows.schema, *RESULT], metadata=self.rows.schema.metadata)

    def batches(self) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """The joined rows, bucket by bucket, each batch with the places (N,) that its rows have among those given.

        Raises:
            InputError: the table's past does not answer a row, or a parameter is missing that says which vectors count.
        """
        users = self.rows["user_id"].cast(pa.string())
        bucket_N = bucket_of(users, self.buckets)
        order_N = np.argsort(bucket_N, kind="stable")
        starts = np.searchsorted(bucket_N[order_N], np.arange(self.buckets + 1))
        for bucket in np.unique(bucket_N).tolist():
            place_N = order_N[starts[bucket] : starts[bucket + 1]]
            found = self._answers(bucket, users.take(pa.array(place_N)), place_N)
            vectors = self._vectors(found)
            for start in range(0, len(place_N), BATCH):
                part = slice(start, start + BATCH)
                yield place_N[part], self._batch(place_N[part], found, vectors, part)

    def table(self) -> pa.Table:
        """The joined rows as one table, in the order in which they were given; raises like `batches`."""
        parts = list(self.batches())
        table = pa.Table.from_batches([batch for _, batch in parts], self.schema)
        if len(table) * max(self._widths, default=0) >= 2**31:
            raise InputError(f"join: {len(table):,} rows with vectors are too many for one table; use join_batches")
        order_N = np.argsort(np.concatenate([np.zeros(0, dtype=np.int64), *(place_N for place_N, _ in parts)]))
        counts = {WITHOUT: str(table["embedding"].null_count)}
        return table.take(pa.array(order_N)).replace_schema_metadata({**(table.schema.metadata or {}), **counts})

    def _answers(self, bucket: int, users: pa.ChunkedArray, place_N: np.ndarray) -> Answers:
        distinct = sorted(users.unique().to_pylist())
        version_N = self.version_N[place_N]
        past = read_past(
            self.timeline, bucket, distinct, set(version_N.tolist()) - {NEVER}, self.instruction, self.encoder
        )
        self._instructions.update(name for keys in past.readable.values() for name in keys.instructions)
        if self.instruction is None and len(self._instructions) > 1:
            raise _several("instruction", self._instructions)
        user_N = pc.index_in(users, value_set=pa.array(distinct, pa.string())).to_numpy().astype(np.int64)
        found = answers(self.timeline, past, Asked(distinct, user_N, self.time_N[place_N], version_N, self.max_age))
        self._encoders.update(found.encoder_N.drop_null().unique().to_pylist())
        if len(self._encoders) > 1 and self.form.routes is None:
            raise _several("encoder", self._encoders)
        if self.form.routes is None:
            self._check_spaces(found)
        return found

    def _check_spaces(self, found: Answers) -> None:
        """Refuse vectors of one encoder that do not compare: under several masks, or texts of the instruction."""
        name = self.instruction if self.instruction is not None else next(iter(self._instructions), "")
        for version in np.unique(found.version_N[found.file_N >= 0]).tolist():
            if (space := space_of(self.timeline.commits[version].metadata, name)) is not None:
                self._spaces.setdefault(space, version)
        if len(self._spaces) > 1:
            versions = ", ".join(map(str, sorted(self._spaces.values())))
            raise InputError(
                f"join: these rows have vectors of several spaces (versions {versions}): of one encoder, but with "
                "another mask or text of the instruction; say known_at= or compatible_with="
            )

    def _vectors(self, found: Answers) -> list[tuple[np.ndarray, np.ndarray]]:
        """The positions (sorted) that were found in each file, and their vectors (N, D)."""
        names = [self.instruction] if self.instruction is not None else [*self._instructions]

        def read(number: int) -> tuple[np.ndarray, np.ndarray]:
            here_N = found.file_N == number
            position_N = np.unique(found.position_N[here_N])
            if not len(position_N):
                return position_N, np.zeros((0, 0), dtype=np.float32)
            file = storage.join(self.timeline.location, found.files[number])
            vector_ND = matrix(scan.read_positions(file, "embedding", position_N))
            # its vectors are in the same space in all versions that have it
            commit = self.timeline.commits[int(found.version_N[here_N][0])]
            encoders = found.encoder_N.filter(pa.array(here_N)).unique().to_pylist()
            if self.form.routes is not None and encoders != [commit.metadata.encoder]:
                raise InputError(
                    f"{file}: has vectors of {encoders}, and version {commit.version} records the encoder "
                    f"{commit.metadata.encoder}; join them without compatible_with"
                )
            return position_N, self.form.of(vector_ND, commit, names[0])

        with ThreadPoolExecutor(scan.THREADS) as pool:
            vectors = list(pool.map(read, range(len(found.files))))
        self._widths.update(vector_ND.shape[1] for _, vector_ND in vectors if len(vector_ND))
        if len(self._widths) > 1:
            raise InputError(
                f"{self.timeline.location}: vectors of this encoder are of widths {sorted(self._widths)}, which do not "
                "compare; ask for as many with dimensions="
            )
        return vectors

    def _batch(
        self, place_N: np.ndarray, found: Answers, vectors: list[tuple[np.ndarray, np.ndarray]], part: slice
    ) -> pa.RecordBatch:
        file_N, time_N = found.file_N[part], found.time_N[part]
        none = file_N < 0
        width = max(self._widths, default=0)
        vector_ND = np.zeros((len(file_N), width), dtype=np.float32)
        for number in np.unique(file_N[~none]).tolist():
            mine, (position_N, of_file) = file_N == number, vectors[number]
            vector_ND[mine] = of_file[np.searchsorted(position_N, found.position_N[part][mine])]
        lengths = np.where(none, 0, width)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        embedding = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(vector_ND[~none].reshape(-1)), mask=pa.array(none)
        )
        as_of = pa.array(np.where(none, 0, time_N), pa.int64(), mask=none).cast(RESULT.field("as_of").type)
        version = pa.array(found.version_N[part], pa.int64(), mask=none)
        columns = [*self.rows.take(pa.array(place_N)).combine_chunks().columns, as_of, version]
        arrays = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns]
        return pa.record_batch(
            [*arrays, found.encoder_N[part.start : part.start + len(file_N)], embedding], self.schema
        )


def prepared_join(
    timeline: Timeline,
    buckets: int,
    keys: Keys,
    asked: JoinOptions,
    suppression: SuppressionFilter,
) -> Join:
    """A join of users and times with a table.

    Rows of forgotten users know no version.

    Raises:
        InputError: an argument is wrong.
    """
    instruction, encoder, max_age = asked.instruction, asked.encoder, asked.max_age
    rows = as_table(keys, RESULT.names)
    metadata = [commit.metadata for commit in timeline.commits]
    zone = next((each.timezone for each in reversed(metadata) if each.model_fields_set), None)
    time_N = instants(rows["time"], "time", zone)
    _check_known("instruction", instruction, {n for m in metadata if m.config for n in m.config.instructions or ()})
    _check_known("encoder", encoder, {m.encoder for m in metadata if m.encoder is not None})
    check_dimensions(asked.form.dimensions)
    if max_age is not None and max_age < dt.timedelta(0):
        raise InputError(f"max_age: expected a time span of 0 or more, found {max_age}")
    version_N = timeline.known_by(_known_at(rows, asked.known_at, zone))
    version_N[suppression.gone(rows["user_id"]).to_numpy(zero_copy_only=False)] = NEVER
    if suppression.state:
        rows = rows.replace_schema_metadata({**(rows.schema.metadata or {}), LIST: suppression.state})
    return Join(
        timeline=timeline,
        buckets=buckets,
        rows=rows,
        time_N=time_N,
        version_N=version_N,
        instruction=instruction,
        encoder=encoder,
        max_age=None if max_age is None else max_age // dt.timedelta(microseconds=1),
        form=asked.form,
    )


def _known_at(rows: pa.Table, known_at: Moment | None, zone: str | None) -> np.ndarray:
    """The moment up to which each row knows versions, microseconds (N,)."""
    if known_at is None:
        return np.full(len(rows), np.iinfo(np.int64).max)
    if isinstance(known_at, str) and known_at in rows.column_names:
        return instants(rows[known_at], known_at, zone)
    moment = microseconds(instant(parsed(known_at, "known_at"), zone))
    return np.full(len(rows), moment)


def _check_known(name: str, value: str | None, known: set[str]) -> None:
    """Refuse an instruction or an encoder that no version names, if versions say which they have."""
    if value is not None and known and value not in known:
        raise InputError(f"{name}: expected one of {', '.join(sorted(known))}, found '{value}'")


def _several(name: str, found: set[str]) -> InputError:
    names = ", ".join(f"'{each}'" for each in sorted(found))
    return InputError(f"join: these rows have vectors of several {name}s ({names}); say which with {name}=")

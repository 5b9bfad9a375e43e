"""Readers of embedding tables: rows, matrices and the history of any version.

Legend: N rows, D width.
"""

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.tables import delta, scan
from ray_ggsm.tables.compatible import Routes, recorded_maps
from ray_ggsm.tables.files import DataFile
from ray_ggsm.tables.join import Join, JoinOptions, VectorForm, prepared_join
from ray_ggsm.tables.labels import Keys
from ray_ggsm.tables.metadata import Commit, RecordedMap, VersionMetadata
from ray_ggsm.tables.moments import Moment, instant, parsed
from ray_ggsm.tables.neighbours.reader import Neighbours, find_index, nobody, open_index
from ray_ggsm.tables.schema import SCHEMA, check_dimensions, matrix, shortened
from ray_ggsm.tables.suppression import SuppressionFilter, read_suppressed
from ray_ggsm.tables.tags import Tag, read_tag, read_tags
from ray_ggsm.tables.timeline import read_timeline
from ray_ggsm.tables.user_lists import by_bucket, strings

Version = int | str | None
"""Number of a version, or name of a tag; None: the newest version."""


def open_table(uri: str, key: bytes | None = None) -> "EmbeddingTable":
    """Open the embedding table at a local path or s3:// location.

    `key` is that of the list of forgotten users: with it `read`, `matrix` and the joins return no row of theirs, of
    whatever version. Without it versions of before a `forget` are read as they are (docs/tables.md).

    Raises:
        InputError: there is no embedding table, it cannot be reached, or its list has another key.
    """
    table = EmbeddingTable(storage.absolute(uri), delta.load(uri), key)
    if key is not None:
        table.suppression  # noqa: B018 (read now, so that another key is refused here)
    return table


class EmbeddingTable:
    """An embedding table as it was when it was opened: newer versions are seen by opening it again."""

    def __init__(self, location: str, table: DeltaTable, key: bytes | None = None) -> None:
        self.location, self._table, self._key = location, table, key
        self._tags: dict[str, Tag] = {}
        self._maps: list[RecordedMap] | None = None

    @property
    def version(self) -> int:
        """The newest version."""
        return self._table.version()

    @property
    def buckets(self) -> int:
        """Number of buckets."""
        return delta.buckets(self._table)

    @cached_property
    def suppression(self) -> SuppressionFilter:
        """Who is left out, by the list of forgotten users as this object saw it first."""
        return SuppressionFilter(read_suppressed(self.location), self._key)

    def honours_list(self, version: Version = None) -> bool:
        """Whether a version records that nobody on the list of forgotten users is in it."""
        listed = self.suppression.suppressed.version
        return not listed or (self.metadata(version).suppressed or 0) >= listed

    def read(
        self,
        *,
        version: Version = None,
        as_of: Moment | None = None,
        user_ids: Sequence[str] | pa.Array | None = None,
        columns: Sequence[str] | None = None,
        buckets: Collection[int] | None = None,
        compatible_with: Version | VersionMetadata = None,
        dimensions: int | None = None,
    ) -> pa.Table:
        """Rows, sorted by bucket, user, as_of and instruction.

        Args:
            version: version to read, by its number or the name of a tag; None: the newest.
            as_of: moment whose rows are wanted: a datetime, a date (its midnight) or an ISO string, in the time zone of
                the version's user rows unless it says otherwise; None: all.
            user_ids: users whose rows are wanted, for little more than the cost of these rows; users without rows are
                left out; None: all.
            columns: names out of SCHEMA, in this order; None: all.
            buckets: buckets whose rows are wanted, each in [0, `self.buckets`): so a table larger than memory is read
                part by part, with all rows of a user in one part; None: all.
            compatible_with: version, by its number or tag, into whose encoder's space the vectors are mapped; or the
                metadata of a version of another table; None: they are read as they are.
            dimensions: first dimensions of the vectors that are wanted (after `compatible_with`), at length 1 again;
                None: all.

        Raises:
            InputError: no such version, tag, column, bucket or dimension, a file of the version or of a map is missing
                or damaged, or no map leads into the space.
        """
        names = SCHEMA.names if columns is None else list(columns)
        if unknown := [name for name in names if name not in SCHEMA.names]:
            raise InputError(f"{self.location}: no column '{unknown[0]}'; there are {', '.join(SCHEMA.names)}")
        check_dimensions(dimensions)
        if missing := [bucket for bucket in buckets or () if not 0 <= bucket < self.buckets]:
            raise InputError(f"{self.location}: no bucket {missing[0]}; there are 0 to {self.buckets - 1}")
        if compatible_with is not None:
            needed = list(dict.fromkeys([*names, "instruction", "embedding"]))
            rows = self.read(version=version, as_of=as_of, user_ids=user_ids, columns=needed, buckets=buckets)
            mapped = self.routes(version, compatible_with).apply(rows, dimensions)
            return (mapped if dimensions is None else shortened(mapped, dimensions)).select(names)
        files = [file for file in self.data_files(version) if buckets is None or file.bucket in buckets]
        users = None
        if user_ids is not None:
            named = by_bucket(strings(user_ids), self.buckets)
            files = [file for file in files if file.bucket in named]
            users = [named[file.bucket] for file in files]
        locations = [storage.join(self.location, file.path) for file in files]
        moment = None if as_of is None else self._instant(as_of, version)
        shows_all = self._key is None or self.honours_list(version)
        read = dict.fromkeys([*names, *([] if shows_all else ["user_id"]), *(["embedding"] if dimensions else [])])
        rows = scan.read_files(locations, list(read), users, moment)
        if not shows_all:
            rows = rows.filter(pc.invert(self.suppression.gone(rows["user_id"])))
        return shortened(rows, dimensions).select(names) if dimensions is not None else rows.select(names)

    def matrix(
        self,
        *,
        version: Version = None,
        as_of: Moment | None = None,
        user_ids: Sequence[str] | pa.Array | None = None,
        instruction: str | None = None,
        compatible_with: Version | VersionMetadata = None,
        dimensions: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """User ids, (N,) strings, and vectors, (N, D) float32, in the order of `read`, whose arguments these are.

        `instruction` keeps the rows of one instruction. A user with several rows (as_of, instruction) appears in each.
        """
        names = ["user_id", "instruction", "embedding"]
        rows = self.read(
            version=version, as_of=as_of, user_ids=user_ids, columns=names, compatible_with=compatible_with,
            dimensions=dimensions,
        )  # fmt: skip
        if instruction is not None:
            rows = rows.filter(pc.equal(rows["instruction"], instruction))
        return rows["user_id"].to_numpy(), matrix(rows["embedding"])

    def join(
        self,
        keys_with_times: Keys,
        *,
        known_at: Moment | None = None,
        instruction: str | None = None,
        encoder: str | None = None,
        max_age: dt.timedelta | None = None,
        compatible_with: Version | VersionMetadata = None,
        dimensions: int | None = None,
    ) -> pa.Table:
        """The rows of `join_batches` as one table, in the order of `keys_with_times`; it raises like `join_batches`.

        Its metadata has the number of rows without a vector: `ray_ggsm.rows_without_vector`; and, where users were
        forgotten, whether that list was applied or there was no key of it: `ray_ggsm.suppression_list`.
        """
        form = self._form(compatible_with, dimensions)
        return self._join(keys_with_times, JoinOptions(known_at, instruction, encoder, max_age, form)).table()

    def join_batches(
        self,
        keys_with_times: Keys,
        *,
        known_at: Moment | None = None,
        instruction: str | None = None,
        encoder: str | None = None,
        max_age: dt.timedelta | None = None,
        compatible_with: Version | VersionMetadata = None,
        dimensions: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Vectors of users at times, as they were known: `keys_with_times` with more columns, bucket by bucket.

        These are `as_of`, `version` (the newest known one that has the vector), `encoder` and `embedding`: of the
        newest vector with `as_of` at or before the row's time, in any version that counts (`ray_ggsm.tables.join`).
        They are null where there is none.

        Args:
            keys_with_times: Arrow table, pandas frame or record batches with the columns `user_id` (text) and `time`
                (timestamps or dates); other columns are carried through. Naive times, and dates (their midnight), are
                in the time zone of the newest version's user rows.
            known_at: only versions committed by then count; the name of a column with timestamps or dates: each row
                has its own; None: all versions.
            instruction: whose vectors count; None: the table has one.
            encoder: digest of the encoder whose vectors count; None: all that are found are of one.
            max_age: how much older than a row's time its vector may be; None: any age.
            compatible_with, dimensions: as for `read`; vectors of several encoders then come in one space.

        Raises:
            InputError: an argument is wrong; or, after some batches: vectors of several instructions, encoders or
                spaces would be mixed, are too short or have no map, or a row's may be in a file that vacuum removed.
        """
        form = self._form(compatible_with, dimensions)
        prepared = self._join(keys_with_times, JoinOptions(known_at, instruction, encoder, max_age, form))
        return (batch for _, batch in prepared.batches())

    def _join(self, keys: Keys, asked: JoinOptions) -> Join:
        timeline = read_timeline(self.location, self.history()[::-1])
        return prepared_join(timeline, self.buckets, keys, asked, self.suppression)

    def _form(self, target: Version | VersionMetadata, dimensions: int | None) -> VectorForm:
        if target is None:
            return VectorForm(dimensions)
        ways = self.routes(None, target)
        return VectorForm(dimensions, lambda source: replace(ways, source=source))

    def routes(self, version: Version, target: Version | VersionMetadata) -> Routes:
        """The ways from a version's vectors into the space of another, as `read(compatible_with=)` takes them."""
        into = target if isinstance(target, VersionMetadata) else self.metadata(target)
        if self._maps is None:
            self._maps = recorded_maps(self.history())
        return Routes(self.location, self._maps, self.metadata(version), into)

    def index(
        self, version: Version = None, *, instruction: str = "default", directory: str | None = None
    ) -> Neighbours:
        """The index of nearest users that `jobs/tables.py index` built of a version: `index().nearest(vectors, k)`.

        `directory` keeps the copy of an index that lies in an object store.

        Raises:
            InputError: no index of what the version holds (that of another version will not do), or a damaged one; or
                users were forgotten since the version, and the table was opened without the key of their list.
        """
        number = self.version if version is None else version
        manifest = find_index(self.location, number, self.data_files(version), instruction)
        if self.honours_list(version) or (isinstance(version, str) and self._key is None):
            return open_index(self.location, manifest, nobody, directory)
        self.suppression.suppressed.check_key(self._key)
        return open_index(self.location, manifest, self.suppression.gone, directory)

    def number_of(self, version: Version) -> int:
        """The number of a version; that of the newest for None.

        Raises:
            InputError: no such tag.
        """
        number = self._tag(version).version if isinstance(version, str) else version
        return self.version if number is None else number

    def history(self) -> list[Commit]:
        """All commits, newest first."""
        return delta.history(self.location, 0, self.version)

    def tags(self) -> dict[str, Tag]:
        """Name -> tag, by name."""
        return read_tags(self.location)

    def metadata(self, version: Version = None) -> VersionMetadata:
        """What a version records about itself: encoder, counts, gates, ...; None: the newest."""
        if not isinstance(version, str):
            return delta.metadata(self.location, self._at(version).version())
        tag = self._tag(version)
        return self.metadata(tag.version).model_copy(update={"rows": tag.rows})

    def files(self, version: Version = None) -> list[str]:
        """Full locations of a version's files, for any Parquet reader."""
        return [storage.join(self.location, file.path) for file in self.data_files(version)]

    def data_files(self, version: Version = None) -> list[DataFile]:
        """A version's files as the log, or the tag, describes them, by bucket."""
        return list(self._tag(version).files) if isinstance(version, str) else delta.files(self._at(version))

    def verify(self, *, deep: bool = False) -> list[str]:
        """Problems of the newest version, one sentence each; an empty list: every file has its size and rows.

        `deep` also reads every page and compares its checksum.
        """
        return scan.problems(self.location, self.data_files(), deep)

    def _instant(self, moment: Moment, version: Version) -> dt.datetime:
        """The instant that a moment means in the zone of a version's user rows."""
        found = parsed(moment)
        return instant(found, None if found.tzinfo else self.metadata(version).timezone)

    def _tag(self, name: str) -> Tag:
        """A tag as it was when this object first looked, so that a version is read part by part."""
        if name not in self._tags:
            self._tags[name] = read_tag(self.location, name)
        return self._tags[name]

    def _at(self, version: int | None) -> DeltaTable:
        return self._table if version in (None, self.version) else delta.load(self.location, version)

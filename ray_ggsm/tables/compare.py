"""The two sides of a comparison: vectors of the same users in two tables, or in two versions or moments of one table.

Legend: N users, D width.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import Config, InputError, Record
from ray_ggsm.hashing import hash64
from ray_ggsm.tables.reader import EmbeddingTable, open_table
from ray_ggsm.tables.schema import matrix


class SideConfig(Config):
    """Which vectors of which table."""

    table: str
    """Location of the table, local or s3://."""
    version: int | str | None = None
    """Version to read, by its number or the name of a tag; null: the newest."""
    instruction: str = "default"
    """Instruction whose rows are compared."""
    as_of: str | None = None
    """Moment whose rows are compared (ISO date or time; without an offset in the time zone of the version's user rows);
    null: each user's newest row."""


@dataclass(frozen=True)
class Side:
    """An opened side."""

    name: str
    """Name in errors and results."""
    config: SideConfig
    """What it was opened with."""
    table: EmbeddingTable
    """The table."""

    @property
    def version(self) -> int:
        """The version that is compared, as a number."""
        return self.table.number_of(self.config.version)

    def read(
        self, columns: list[str], user_ids: pa.Array | None = None, buckets: Collection[int] | None = None
    ) -> pa.Table:
        """The rows of the instruction and moment, with these columns and `instruction`."""
        c, names = self.config, [*columns, "instruction"]
        rows = self.table.read(version=c.version, as_of=c.as_of, user_ids=user_ids, columns=names, buckets=buckets)
        return rows.filter(pc.equal(rows["instruction"], c.instruction))

    def users(self, part: int, parts: int) -> pa.Array:
        """The users of one part of the table who have a row; `parts` divides the table's number of buckets."""
        buckets = range(part, self.table.buckets, parts)
        return self.read(["user_id"], buckets=buckets)["user_id"].combine_chunks().unique()

    def vectors(self, users: pa.Array) -> tuple[np.ndarray, list[str]]:
        """One vector per user, (N, D) float32 in the order of `users`, and the digests of their encoders.

        Raises:
            InputError: vectors of several widths, or with NaN or infinite values.
        """
        rows = self.read(["user_id", "as_of", "embedding", "encoder"], users).combine_chunks()
        order = pa.table({"place": pc.index_in(rows["user_id"], users), "as_of": rows["as_of"]})
        order = order.append_column("row", pa.array(np.arange(len(rows))))
        newest = order.sort_by("as_of").group_by("place", use_threads=False).aggregate([("row", "last")])
        rows = rows.take(newest.sort_by("place")["row_last"])
        assert rows["user_id"].combine_chunks().equals(users)
        widths = pc.list_value_length(rows["embedding"]).unique().to_pylist()
        if len(widths) > 1:
            raise InputError(f"{self.name}: {self.where} holds vectors of width {widths}; it needs one width")
        vector_ND = matrix(rows["embedding"])
        if bad := int((~np.isfinite(vector_ND)).any(axis=1).sum()):
            raise InputError(
                f"{self.name}: {bad} vectors of {self.where} hold NaN or infinite values; embed them again"
            )
        return vector_ND, sorted(rows["encoder"].unique().to_pylist())

    @property
    def where(self) -> str:
        """The table and version, for people."""
        tag = f" (tag '{self.config.version}')" if isinstance(self.config.version, str) else ""
        return f"{self.table.location} version {self.version}{tag}"

    def no_rows_error(self) -> InputError:
        """The error for an instruction and moment without rows."""
        rows = self.table.read(version=self.config.version, columns=["instruction", "as_of"])
        if self.config.instruction not in (found := rows["instruction"].unique().to_pylist()):
            names = ", ".join(f"'{name}'" for name in sorted(found)) or "no rows at all"
            wanted = f"'{self.config.instruction}'"
            return InputError(f"{self.name}.instruction: {self.where} has no row of {wanted}; there is {names}")
        moments = [moment.isoformat() for moment in sorted(rows["as_of"].unique().to_pylist(), reverse=True)]
        shown = ", ".join(moments[:3]) + (f" and {len(moments) - 3} earlier ones" if len(moments) > 3 else "")
        return InputError(
            f"{self.name}.as_of: {self.where} has no row of {self.config.as_of}; there are rows of {shown}"
        )


def opened(name: str, config: SideConfig) -> Side:
    """Open one side.

    Raises:
        InputError: there is no such table, version or tag.
    """
    side = Side(name, config, open_table(config.table))
    side.table.data_files(config.version)
    return side


class UserCounts(Record):
    """Numbers of users."""

    old_only: int
    new_only: int
    both: int
    compared: int


@dataclass(frozen=True)
class Shared:
    """The users who can be compared."""

    users: pa.Array
    """User ids of the sample, in the order of their hashes."""
    counts: UserCounts


def shared(old: Side, new: Side, sample: int) -> Shared:
    """The users of both sides; when there are more than `sample`, those with the smallest hashes: always the same.

    The tables are read part by part, so that memory does not grow with them.

    Raises:
        InputError: a side has no user, or fewer than two users are on both sides.
    """
    parts = math.gcd(old.table.buckets, new.table.buckets)
    in_old = in_new = in_both = 0
    kept = pa.array([], pa.string())
    for part in range(parts):
        old_users, new_users = old.users(part, parts), new.users(part, parts)
        both = old_users.filter(pc.is_in(old_users, value_set=new_users))
        in_old, in_new, in_both = in_old + len(old_users), in_new + len(new_users), in_both + len(both)
        kept = pa.concat_arrays([kept, both])
        kept = kept.take(pa.array(np.argsort(hash64(kept), kind="stable")[:sample]))
    for side, count in ((old, in_old), (new, in_new)):
        if not count:
            raise side.no_rows_error()
    if in_both < 2:
        raise InputError(
            f"old and new have {in_both or 'no'} user in common ({in_old:,} in {old.where}, {in_new:,} in "
            f"{new.where}); are they about the same people?"
        )
    counts = UserCounts(old_only=in_old - in_both, new_only=in_new - in_both, both=in_both, compared=len(kept))
    return Shared(kept, counts)

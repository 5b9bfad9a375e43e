"""The description of one build of a table version; every task of the build gets it.

Everything is laid out by user: a bucket of the table is one file, and the unit that is done, or done again after a
failure. A bucket's file gets its name when it is complete, and the name follows from what it is made of. So whatever is
killed, the next run does the buckets that have no file yet: nothing is lost, and there is no list of ids to keep.

Tasks that only read and write import this folder, and it must not import torch, which would add seconds to the start of
each (tests/test_layers.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm import storage
from ray_ggsm.config import digest
from ray_ggsm.embedding.config import EncodingConfig
from ray_ggsm.model.event_vectors import VectorStore
from ray_ggsm.tables.files import DataFile, DataFileConfig
from ray_ggsm.tables.suppression import NOBODY, Suppressed


@dataclass(frozen=True)
class Build:
    """One build of one version."""

    embedding: EncodingConfig
    """How user rows become vectors."""
    files: DataFileConfig
    """How vectors are stored."""
    max_text_length: int
    """Longest event text, in characters; rows with a longer one are rejected."""
    encoder: str
    """Location of the saved encoder."""
    encoder_digest: str
    """Digest of the encoder."""
    modalities: tuple[str, ...]
    """Columns of events that the encoder reads."""
    features: int
    """Numbers in a row's tabular vector."""
    zone: str
    """Time zone whose clock the ages of events follow."""
    vectors: VectorStore
    """Vectors of event texts."""
    run: str
    """Name of the run, and of its files."""
    table: str
    """Location of the table."""
    staging: str
    """Directory of rows by bucket, and of dead letters."""
    buckets: int
    """Number of buckets of the table."""
    one_row_each: bool
    """Whether a user has one row; false: one per moment (`as_of`)."""
    forgotten: Suppressed = NOBODY
    """Users who have no row, whatever the input says."""
    key: bytes | None = None
    """Key of this list."""
    max_age_days: int | None = None
    """Users without new or expired events keep a vector up to this age; None: only one of the same moment."""

    @property
    def rows(self) -> str:
        """Directory of user rows by bucket."""
        return storage.join(self.staging, "rows")

    @property
    def dead_letters(self) -> str:
        """Directory of rejected rows."""
        return storage.join(self.staging, "dead_letters")

    @property
    def data(self) -> str:
        """Directory of the run's data files."""
        return storage.join(self.table, "data", self.run)

    def part(self, previous: Sequence[DataFile]) -> str:
        """Name of a bucket's new file, from its files in the version before and the list of forgotten users."""
        return f"{digest([file.path for file in previous])}-{self.forgotten.version}"

    def gone(self, users: pa.ChunkedArray) -> pa.BooleanArray:
        """Which users, (N,) bool, are on the list of the forgotten."""
        return self.forgotten.gone(users, self.key)

    def without_gone(self, rows: pa.Table) -> pa.Table:
        """The rows, with the column `user_id`, of users who are not on the list."""
        return rows.filter(pc.invert(self.gone(rows["user_id"]))) if self.forgotten.version else rows

    def clean(self) -> None:
        """Remove what is not needed once a version is published: rows, which name users; dead letters stay."""
        storage.remove(self.rows)

"""Statistics of a version before it is published: measured file by file, and merged into one.

Anchors are the rows of the users with the smallest hashes: the same people in every version, however the rows are
split into files. Drift is measured on them. Legend: N rows, D width.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.hashing import hash64
from ray_ggsm.tables.reader import EmbeddingTable
from ray_ggsm.tables.schema import KEY, SCHEMA, matrix

ANCHORS = 256
"""Number of anchor users."""
_ANCHOR = pa.schema([SCHEMA.field(name) for name in [*KEY, "content", "embedding"]])


@dataclass(frozen=True)
class FileCheck:
    """Statistics of the rows of some files. Files are merged by bucket, so no user is in two of them."""

    rows: int = 0
    """Number of rows."""
    keys: int = 0
    """Number of distinct (user_id, as_of, instruction)."""
    widths: tuple[int, ...] = ()
    """Distinct widths of vectors, sorted; the statistics below leave out a file that has more than one."""
    not_finite: int = 0
    """Vectors with NaN or infinite values; the statistics below leave them out."""
    zero: int = 0
    """Vectors of length 0."""
    constant: int = 0
    """Vectors whose values are all the same, and not zero."""
    measured: int = 0
    """Vectors whose lengths the three norms describe."""
    norm_min: float = float("inf")
    """Smallest length."""
    norm_max: float = 0.0
    """Largest length."""
    norm_sum: float = 0.0
    """Sum of the lengths."""
    ages: Mapping[str, int] = field(default_factory=dict)
    """Moment (ISO, UTC) -> rows with this `as_of`."""
    anchors: pa.Table = field(default_factory=_ANCHOR.empty_table)
    """Rows of the anchor users: user_id, as_of, instruction, content, embedding."""


def check_file(table: pa.Table) -> FileCheck:
    """Check the rows of one file; of each user all rows are in it."""
    lengths = pc.list_value_length(table["embedding"]).fill_null(0)
    found = FileCheck(
        rows=table.num_rows,
        keys=table.select(KEY).group_by(KEY).aggregate([]).num_rows,
        widths=tuple(sorted(lengths.unique().to_pylist())),
        ages=ages_of(table["as_of"]),
    )
    if len(found.widths) != 1:
        return found
    vector_ND = matrix(table["embedding"])
    finite_N = np.isfinite(vector_ND).all(axis=1)
    anchors = _anchors(table.select(_ANCHOR.names).filter(pa.array(finite_N)).cast(_ANCHOR))
    vector_ND = vector_ND if finite_N.all() else vector_ND[finite_N]
    found = replace(found, not_finite=int((~finite_N).sum()), anchors=anchors)
    if not vector_ND.size:
        return found
    norm_N = np.sqrt(np.einsum("nd,nd->n", vector_ND, vector_ND))
    same_N = vector_ND.min(axis=1) == vector_ND.max(axis=1)
    return replace(
        found,
        zero=int((norm_N == 0).sum()),
        constant=int((same_N & (norm_N > 0)).sum()) if vector_ND.shape[1] > 1 else 0,
        measured=len(norm_N),
        norm_min=float(norm_N.min()),
        norm_max=float(norm_N.max()),
        norm_sum=float(norm_N.sum(dtype=np.float64)),
    )


def ages_of(as_of: pa.ChunkedArray) -> dict[str, int]:
    """Moment (ISO, UTC) -> rows with this `as_of`."""
    counts = pc.value_counts(as_of.cast(pa.timestamp("us", "UTC")))
    return {entry["values"].isoformat(): entry["counts"] for entry in counts.to_pylist()}


def carried(rows: int, ages: Mapping[str, int] | None = None) -> FileCheck:
    """The check of files that an earlier version has published and this one keeps: counted, not read again."""
    return FileCheck(rows=rows, keys=rows, ages=ages or {})


def published(table: EmbeddingTable, found: FileCheck) -> FileCheck:
    """The check of an earlier version for `judge`: its rows, and its vectors of the anchor users of `found`."""
    users = found.anchors["user_id"].unique().to_pylist()
    anchors = table.read(user_ids=users, columns=_ANCHOR.names)
    rows = sum(file.rows for file in table.data_files())
    return replace(carried(rows), anchors=anchors)


def merge(checks: Iterable[FileCheck]) -> FileCheck:
    """All checks as one. Merge them as they come in, because each holds its own anchors in memory."""
    total = FileCheck()
    for check in checks:
        total = FileCheck(
            rows=total.rows + check.rows,
            keys=total.keys + check.keys,
            widths=tuple(sorted({*total.widths, *check.widths})),
            not_finite=total.not_finite + check.not_finite,
            zero=total.zero + check.zero,
            constant=total.constant + check.constant,
            measured=total.measured + check.measured,
            norm_min=min(total.norm_min, check.norm_min),
            norm_max=max(total.norm_max, check.norm_max),
            norm_sum=total.norm_sum + check.norm_sum,
            ages=Counter(total.ages) + Counter(check.ages),
            anchors=_anchors(pa.concat_tables([total.anchors, check.anchors])),
        )
    return total


def _anchors(table: pa.Table) -> pa.Table:
    """The rows of the users with the smallest hashes."""
    if not table.num_rows:
        return table
    encoded = table["user_id"].combine_chunks().dictionary_encode()
    key_U = hash64(encoded.dictionary)
    if len(key_U) <= ANCHORS:
        return table
    largest = np.partition(key_U, ANCHORS - 1)[ANCHORS - 1]
    return table.filter(pa.array((key_U <= largest)[encoded.indices.to_numpy()])).combine_chunks()

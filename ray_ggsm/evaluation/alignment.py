"""Vectors and labels of one split, brought together row by row on (user_id, as_of).

Vectors (embeddings or hand-crafted features) carry the same two keys as label tables. What would make an AUC dishonest
is refused here: repeated keys, vectors of another `as_of`, vectors that are missing, of unequal length or not finite,
labels of one class, users who are in two splits. `ray_ggsm.data.held_out` refuses splits whose config alone shows that
one is no test of the other.

Shapes: N label rows, D vector width, V vector rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_ggsm.config import InputError
from ray_ggsm.evaluation.keys import KEYS, row_name, unique_keys, with_keys
from ray_ggsm.evaluation.labels import check_labels


@dataclass(frozen=True)
class Aligned:
    """Vectors and labels of one split, row by row in the order of the label table."""

    vectors: np.ndarray
    """(N, D) float32, finite."""
    labels: dict[str, np.ndarray]
    """Label -> (N,) float32: 1 positive, 0 negative, NaN undefined."""
    users: np.ndarray
    """(N,) user identifiers, strings."""
    without_vector: int
    """Number of label rows that were left out because they have no vector."""


@dataclass(frozen=True)
class ProbeData:
    """The rows that probes are fitted on, and the rows that they score."""

    fit: Aligned
    score: Aligned


def only(data: ProbeData, labels: Sequence[str]) -> ProbeData:
    """The same rows with some of the labels."""
    fit, score = (replace(rows, labels={name: rows.labels[name] for name in labels}) for rows in (data.fit, data.score))
    return ProbeData(fit, score)


def joined(first: Aligned, second: Aligned) -> Aligned:
    """Both vectors side by side; both arguments must have the rows of the same label table."""
    return replace(first, vectors=np.hstack([first.vectors, second.vectors]))


def align(labels: pa.Table, features: pa.Table, vector_column: str, split: str, name: str = "") -> Aligned:
    """Find the vector of every label row.

    Args:
        labels: a label table as `read_labels` returns it.
        features: a table with `user_id`, `as_of` and a list column of numbers; it may have more rows than `labels`.
        vector_column: name of the list column.
        split: name of the split in errors.
        name: name of the vectors in errors.

    Raises:
        InputError: a key is repeated or null, a label has one class, or a vector is missing, of another length than
            the first, or not finite.
    """
    label_origin, vector_origin = _origins(split, vector_column, name)
    labels, features = check_labels(labels, label_origin), with_keys(features, vector_origin)
    places = _places(labels, features, label_origin, vector_origin)
    if places.null_count:
        raise InputError(_missing_sentence(labels, features, places, label_origin, vector_origin))
    matrix_VD = _matrix(features, vector_column, vector_origin)
    matrix_ND = np.ascontiguousarray(matrix_VD[places.to_numpy()], dtype=np.float32)
    _check_finite(matrix_ND, labels, vector_origin)
    values = {label: _values(labels[label]) for label in labels.column_names if label not in KEYS}
    check_two_classes(values, split)
    return Aligned(matrix_ND, values, labels["user_id"].to_numpy(), 0)


def align_all(
    labels: pa.Table, tables: Mapping[str, tuple[pa.Table, str]], split: str, *, allow_missing: bool = False
) -> dict[str, Aligned]:
    """`align` for several tables of vectors, all with the same label rows.

    Args:
        labels: as for `align`.
        tables: name -> (rows, vector column).
        split: name of the split in errors.
        allow_missing: leave out of all results the label rows that lack a vector in one of the tables.

    Raises:
        InputError: as `align`; or no label row has a vector in every table.
    """
    kept = labels
    for name, (features, column) in tables.items() if allow_missing else ():
        origins = _origins(split, column, name)
        checked, features = check_labels(kept, origins[0]), with_keys(features, origins[1])
        places = _places(checked, features, *origins)
        if places.null_count == len(places):
            raise InputError(_missing_sentence(checked, features, places, *origins))
        kept = kept.filter(pc.is_valid(places))
    missing = labels.num_rows - kept.num_rows
    return {name: replace(align(kept, *table, split, name), without_vector=missing) for name, table in tables.items()}


def check_two_classes(labels: Mapping[str, np.ndarray], split: str) -> None:
    """Refuse labels (1, 0, NaN) without a positive or without a negative row, because they have no AUC."""
    for name, values_N in labels.items():
        positives, negatives = int((values_N == 1).sum()), int((values_N == 0).sum())
        if not positives or not negatives:
            raise InputError(
                f"label '{name}', split '{split}': an AUC needs positives and negatives, found {positives} and "
                f"{negatives} in {len(values_N)} rows; change the label's definition or leave it out"
            )


def check_disjoint(first: Aligned, second: Aligned, first_split: str, second_split: str) -> None:
    """Refuse users who are in both splits: a probe must be scored on people it has never seen."""
    shared = np.intersect1d(first.users.astype(str), second.users.astype(str))
    if shared.size:
        raise InputError(
            f"{shared.size} users are in both the {first_split} and the {second_split} split; give every user to one "
            "of them"
        )


def _origins(split: str, vector_column: str, name: str) -> tuple[str, str]:
    """How errors name the label table and the vector table."""
    return f"{split} labels", f"{split} vectors ('{vector_column}'{f' of {name}' if name else ''})"


def _places(labels: pa.Table, features: pa.Table, label_origin: str, vector_origin: str) -> pa.Array:
    """Row of each label row's vector in `features`, null where there is none; repeated keys are refused."""
    label_keys_N, vector_keys_V = unique_keys(labels, label_origin), unique_keys(features, vector_origin)
    return pc.index_in(label_keys_N, value_set=vector_keys_V)


def _missing_sentence(
    labels: pa.Table, features: pa.Table, places: pa.Array, label_origin: str, vector_origin: str
) -> str:
    missing = labels.filter(pc.is_null(places))
    elsewhere = pc.sum(pc.is_in(missing["user_id"], value_set=features["user_id"].combine_chunks())).as_py()
    hint = f"{elsewhere} of them have a vector at another as_of; " if elsewhere else ""
    first = row_name(labels, pc.index(pc.is_null(places), True).as_py())
    return (
        f"{label_origin}: {missing.num_rows} of {labels.num_rows} rows have no row in {vector_origin}, first "
        f"{first}; {hint}embed these rows, or set evaluation.allow_missing to leave them out and count "
        "them"
    )


def _matrix(features: pa.Table, column: str, origin: str) -> np.ndarray:
    """The list column as (V, D) numbers, without a copy where Arrow allows it."""
    if column not in features.column_names:
        raise InputError(f"{origin}: column '{column}' is missing; found {', '.join(features.column_names)}")
    lists = features[column].combine_chunks()
    kind = lists.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise InputError(f"{origin}: column '{column}' must be a list of float numbers, found {kind}")
    if lists.null_count:
        first = row_name(features, pc.index(pc.is_null(lists), True).as_py())
        raise InputError(f"{origin}: {lists.null_count} vectors are null, first {first}; embed them again")
    width = _width(lists, features, origin)
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(-1, width)


def _width(lists: pa.Array, features: pa.Table, origin: str) -> int:
    """The length that all vectors have."""
    lengths = pc.list_value_length(lists)
    width = lengths[0].as_py()
    row = 0 if not width else pc.index(pc.equal(lengths, width), False).as_py()
    if row >= 0:
        raise InputError(
            f"{origin}: all vectors must have the same length of at least 1, found {width} and then "
            f"{lengths[row].as_py()} at {row_name(features, row)}"
        )
    return int(width)


def _check_finite(matrix_ND: np.ndarray, table: pa.Table, origin: str) -> None:
    bad_N = ~np.isfinite(matrix_ND).all(axis=1)
    if bad_N.any():
        raise InputError(
            f"{origin}: {int(bad_N.sum())} vectors hold NaN or infinite numbers, first "
            f"{row_name(table, int(bad_N.argmax()))}; correct the rows or embed them again"
        )


def _values(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float32()).to_numpy()

"""Label tables, and their alignment with a table of vectors.

A label table has one row per snapshot of a user: `user_id` (string), `as_of` (timestamp[us, UTC]) and one nullable
boolean column per label; each split has its own location, or all share one with the column `role` (string: fit, score).
A table that somebody else made can say with `observed_from` (timestamp) since when its labels were observed.
Vectors (embeddings or hand-crafted features) carry the same two keys.

Everything that would make an AUC dishonest is refused here: repeated keys, labels observed before `as_of`, vectors of
another `as_of`, vectors that are absent, unequal or not finite, one-class labels, users shared by two splits. Stages
that are no test of each other by their config alone are refused in `ray_ggsm.data.held_out`.

Shapes: N label rows, D vector width, V vector rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_ggsm import storage
from ray_ggsm.config import InputError

KEYS = ("user_id", "as_of")
ROLE, OBSERVED_FROM = "role", "observed_from"
"""Optional columns; a boolean column of such a name is a label."""
_AS_OF = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Aligned:
    """Vectors and labels of one split, row by row in the order of the label table."""

    vectors: np.ndarray
    """(N, D) float32, finite."""
    labels: dict[str, np.ndarray]
    """Label name -> float32 array of N: 1 positive, 0 negative, NaN undefined."""
    users: np.ndarray
    """(N,) user identifiers (strings)."""
    missing: int
    """Labelled rows left out because they have no vector."""
    unlabelled: int
    """Rows of the vector table that no label row asks for."""


@dataclass(frozen=True)
class ProbeData:
    """The rows that probes are fitted on, and those that they are scored on."""

    fit: Aligned
    score: Aligned


def joined(first: Aligned, second: Aligned) -> Aligned:
    """Both vectors side by side; the rows are those of the same label table."""
    return replace(first, vectors=np.hstack([first.vectors, second.vectors]))


def read_labels(location: str, role: str | None = None) -> pa.Table:
    """Read a label table: a Parquet file or a directory of them, local or s3://.

    Args:
        location: the table.
        role: the rows to read when the table has the column `role`: fit or score.

    Raises:
        InputError: nothing is there, a column is missing, mistyped or no label, or labels are from before `as_of`.
    """
    fs, path = storage.arrow_filesystem(location)
    try:
        table = pq.read_table(path, filesystem=fs)
    except FileNotFoundError as error:
        raise InputError(f"{location}: no label table here; run the prepare job first") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{location}: expected a Parquet label table ({' '.join(str(error).split())})") from error
    return check_labels(_of_role(table, role, location), location)


def check_labels(table: pa.Table, origin: str) -> pa.Table:
    """The keys, with `as_of` in UTC microseconds, and the labels; or InputError. `origin` names the table in errors."""
    table = _observed_after(_with_keys(table, origin), origin)
    names = [name for name in table.column_names if name not in KEYS]
    if not names:
        raise InputError(f"{origin}: no label column; add at least one boolean column beside {' and '.join(KEYS)}")
    for name in names:
        kind = table.schema.field(name).type
        if not pa.types.is_boolean(kind):
            raise InputError(f"{origin}: label column '{name}' must be bool (true, false or null), found {kind}")
    if not table.num_rows:
        raise InputError(f"{origin}: the label table has no rows; check the cutoffs and the user split of this split")
    return table


def align(labels: pa.Table, features: pa.Table, vector_column: str, split: str, name: str = "") -> Aligned:
    """Bring vectors and labels of one split together on (user_id, as_of).

    Args:
        labels: a label table as `read_labels` gives it.
        features: a table with `user_id`, `as_of` and a list column of numbers; more rows than labels are fine.
        vector_column: name of that list column; all its vectors must have the same length.
        split: names the split in errors.
        name: names the vectors in errors.

    Raises:
        InputError: a key is repeated or null, a label has one class, or a vector is missing, of another length or
                not finite.
    """
    label_origin, vector_origin = _origins(split, vector_column, name)
    labels, features = check_labels(labels, label_origin), _with_keys(features, vector_origin)
    found = _places(labels, features, label_origin, vector_origin)
    if found.null_count:
        raise InputError(_missing_sentence(labels, features, found, label_origin, vector_origin))
    matrix_VD = _matrix(features, vector_column, vector_origin)
    matrix_ND = np.ascontiguousarray(matrix_VD[found.to_numpy()], dtype=np.float32)
    _check_finite(matrix_ND, labels, vector_origin)
    values = {name: _values(labels[name]) for name in labels.column_names if name not in KEYS}
    check_two_classes(values, split)
    return Aligned(matrix_ND, values, labels["user_id"].to_numpy(), 0, features.num_rows - labels.num_rows)


def align_all(
    labels: pa.Table, tables: Mapping[str, tuple[pa.Table, str]], split: str, *, allow_missing: bool = False
) -> dict[str, Aligned]:
    """`align` for several tables (name -> rows, vector column), all on the same label rows.

    With `allow_missing`, rows that lack a vector in one of the tables are left out for all, and counted in `missing`.

    Raises:
        InputError: as `align`; or no row has a vector in every table.
    """
    kept = labels
    for name, (features, column) in tables.items() if allow_missing else ():
        origins = _origins(split, column, name)
        checked, features = check_labels(kept, origins[0]), _with_keys(features, origins[1])
        found = _places(checked, features, *origins)
        if found.null_count == len(found):
            raise InputError(_missing_sentence(checked, features, found, *origins))
        kept = kept.filter(pc.is_valid(found))
    missing = labels.num_rows - kept.num_rows
    return {name: replace(align(kept, *table, split, name), missing=missing) for name, table in tables.items()}


def check_two_classes(labels: Mapping[str, np.ndarray], split: str) -> None:
    """Refuse labels (1, 0, NaN) of which a split has only positives, only negatives or nothing: no AUC exists then."""
    for name, values_N in labels.items():
        positives, negatives = int((values_N == 1).sum()), int((values_N == 0).sum())
        if not positives or not negatives:
            raise InputError(
                f"label '{name}', split '{split}': an AUC needs positives and negatives, found {positives} and "
                f"{negatives} in {len(values_N)} rows; change the label's definition or leave it out"
            )


def check_disjoint(first: Aligned, second: Aligned, first_split: str, second_split: str) -> None:
    """Refuse users who stand in both splits: a probe must be scored on people it has never seen."""
    shared = np.intersect1d(first.users.astype(str), second.users.astype(str))
    if shared.size:
        raise InputError(
            f"{shared.size} users are in both the {first_split} and the {second_split} split (first: '{shared[0]}'); "
            f"split the splits by user"
        )


def _of_role(table: pa.Table, role: str | None, origin: str) -> pa.Table:
    """Only the rows of this role, if there is a column that tells."""
    if ROLE not in table.column_names or pa.types.is_boolean(table.schema.field(ROLE).type):
        return table
    names = table[ROLE].cast(pa.large_string())
    rows = table.filter(pc.equal(names, role)).drop_columns(ROLE)
    if not rows.num_rows:
        found = ", ".join(sorted(str(name) for name in names.unique().to_pylist()))
        raise InputError(f"{origin}: no row has role '{role}'; the column 'role' holds: {found or 'nothing'}")
    return rows


def _observed_after(table: pa.Table, origin: str) -> pa.Table:
    """The table without `observed_from`; labels that begin before their `as_of` are refused."""
    if OBSERVED_FROM not in table.column_names or pa.types.is_boolean(table.schema.field(OBSERVED_FROM).type):
        return table
    kind = table.schema.field(OBSERVED_FROM).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InputError(f"{origin}: column '{OBSERVED_FROM}' must be a timestamp with time zone UTC, found {kind}")
    after = pc.greater_equal(table[OBSERVED_FROM].cast(_AS_OF, safe=False), table["as_of"]).fill_null(False)
    early = pc.index(after, False).as_py()
    if early >= 0:
        raise InputError(
            f"{origin}: {len(after) - pc.sum(after).as_py()} labels were observed before their as_of, or nobody knows "
            f"since when; first {_name(table, early)}, {OBSERVED_FROM} {table[OBSERVED_FROM][early].as_py()}; "
            "labels must come from the time after as_of"
        )
    return table.drop_columns(OBSERVED_FROM)


def _origins(split: str, vector_column: str, name: str) -> tuple[str, str]:
    """How errors name the two sides."""
    return f"{split} labels", f"{split} vectors ('{vector_column}'{f' of {name}' if name else ''})"


def _places(labels: pa.Table, features: pa.Table, label_origin: str, vector_origin: str) -> pa.Array:
    """Position of each label row's vector, null where there is none; repeated keys are refused."""
    label_keys_N, vector_keys_V = _unique_keys(labels, label_origin), _unique_keys(features, vector_origin)
    return pc.index_in(label_keys_N, value_set=vector_keys_V)


def _with_keys(table: pa.Table, origin: str) -> pa.Table:
    """Check the key columns and cast `as_of` to UTC microseconds."""
    for name in KEYS:
        if name not in table.column_names:
            raise InputError(
                f"{origin}: column '{name}' is missing; found {', '.join(table.column_names) or 'no columns'}"
            )
        if table[name].null_count:
            raise InputError(
                f"{origin}: column '{name}' is null in {table[name].null_count} rows; every row needs a key"
            )
    user_type, as_of_type = table.schema.field("user_id").type, table.schema.field("as_of").type
    if not (pa.types.is_string(user_type) or pa.types.is_large_string(user_type)):
        raise InputError(f"{origin}: column 'user_id' must be a string, found {user_type}")
    if not pa.types.is_timestamp(as_of_type) or as_of_type.tz is None:
        raise InputError(f"{origin}: column 'as_of' must be a timestamp with time zone UTC, found {as_of_type}")
    table = table.set_column(table.column_names.index("as_of"), "as_of", table["as_of"].cast(_AS_OF, safe=False))
    return table.set_column(table.column_names.index("user_id"), "user_id", table["user_id"].cast(pa.large_string()))


def _unique_keys(table: pa.Table, origin: str) -> pa.Array:
    """One string per row that identifies (user_id, as_of); repeated keys are refused."""
    instants = table["as_of"].cast(pa.int64()).cast(pa.large_string())
    keys = pc.binary_join_element_wise(instants, table["user_id"], pa.scalar("|", pa.large_string())).combine_chunks()
    repeated = len(keys) - pc.count_distinct(keys).as_py()
    if repeated:
        counts = pc.value_counts(keys)
        first = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0]
        raise InputError(
            f"{origin}: {_name(table, pc.index(keys, first).as_py())} is repeated ({repeated} repeated rows in all); "
            "keep one row per (user_id, as_of)"
        )
    return keys


def _name(table: pa.Table, row: int) -> str:
    return f"(user_id '{table['user_id'][row].as_py()}', as_of {table['as_of'][row].as_py().isoformat()})"


def _missing_sentence(
    labels: pa.Table, features: pa.Table, found: pa.Array, label_origin: str, vector_origin: str
) -> str:
    lost = labels.filter(pc.is_null(found))
    other_time = pc.sum(pc.is_in(lost["user_id"], value_set=features["user_id"].combine_chunks())).as_py()
    hint = f"{other_time} of them have a vector at another as_of; " if other_time else ""
    return (
        f"{label_origin}: {lost.num_rows} of {labels.num_rows} rows have no row in {vector_origin}, first "
        f"{_name(lost, 0)}; {hint}embed these rows, or set evaluation.allow_missing to leave them out and count them"
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
        row = pc.index(pc.is_null(lists), True).as_py()
        raise InputError(
            f"{origin}: {lists.null_count} vectors are null, first {_name(features, row)}; embed them again"
        )
    lengths = pc.list_value_length(lists)
    width = lengths[0].as_py() if len(lengths) else 0
    odd = pc.index(pc.equal(lengths, width), False).as_py()
    if odd >= 0 or not width:
        row = max(odd, 0)
        raise InputError(
            f"{origin}: all vectors must have the same length of at least 1, found {width} and then "
            f"{lengths[row].as_py() if len(lengths) else 0}" + (f" at {_name(features, row)}" if len(lengths) else "")
        )
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False).reshape(-1, width)


def _check_finite(matrix_ND: np.ndarray, table: pa.Table, origin: str) -> None:
    bad_N = ~np.isfinite(matrix_ND).all(axis=1)
    if bad_N.any():
        raise InputError(
            f"{origin}: {int(bad_N.sum())} vectors hold NaN or infinite numbers, first "
            f"{_name(table, int(bad_N.argmax()))}; correct the rows or embed them again"
        )


def _values(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float32()).to_numpy()
